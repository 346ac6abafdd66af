"""Whether a bundle is signed with a key: by OpenSSH over ``manifest.json``, or by OpenSSF's model-signing over the folder.

``manifest.json`` has the sha256 of every other file, so that opening a bundle whose manifest is signed proves all of it. edgekit
writes no signature, and keeps no keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import MANIFEST, OPENSSF, SSH
from edgekit.bundle.signed import is_file, signatures_of
from edgekit.errors import BundleError, InputError, MissingError, first_line
from edgekit.files import read_bytes, read_text
from edgekit.machine.bounds import LONGER, waiting_seconds
from edgekit.machine.packages import needs

NAMESPACE = "bundle"
"""What OpenSSH signs for: a signature over the same bytes for another purpose is none of a bundle."""
OF_SSH = re.compile(r"((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,3})(?: .*)?")
OF_PEM = "-----BEGIN PUBLIC KEY-----"
MOST_BYTES = 1 << 20
SECONDS = 60


def open_signed(root: Path, key: Path) -> Bundle:
    """Open a bundle that is signed with a key; raises what ``open_bundle`` and ``check_signature`` do."""
    bundle = open_bundle(root)
    return msgspec.structs.replace(bundle, signed=check_signature(bundle, key))


def check_signature(bundle: Bundle, key: Path) -> str:
    """Hold the bundle against the public key in the file ``key``; returns a sentence that says what was checked.

    Raises InputError for what is no public key, MissingError where the program that checks is missing, and BundleError where the
    bundle has no signature of that kind, or not by this key, or of other files.
    """
    text = read_text(key, "public key", InputError).strip()
    of_ssh = OF_SSH.fullmatch(text)
    if not of_ssh and not text.startswith(OF_PEM):
        kind = "a private key" if "PRIVATE KEY-----" in text else "no public key"
        raise InputError(f"{key} is {kind}", "give one line of OpenSSH's, like ssh-ed25519 AAAA..., or a PEM public key")
    name = SSH if of_ssh else OPENSSF
    if name not in signatures_of(bundle):
        other = ", ".join(signatures_of(bundle))
        has = f"; it has {other}, for a key of another kind" if other else ""
        raise BundleError(f"bundle {bundle.root} has no {name} for the key in {key}{has}", "ask for a signed bundle")
    signature = bundle.reading(lambda place: _bounded(place / name))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        copy = Path(folder) / name
        copy.write_bytes(signature)
        problem = _by_ssh(bundle, of_ssh, copy) if of_ssh else _by_openssf(bundle, key, copy)
    if problem:
        raise BundleError(
            f"{bundle.root / name} is not this bundle's signature by the key in {key}: {problem}", "do not use this bundle"
        )
    return f"it is signed: {name} is by the key in {key}"


def _bounded(path: Path) -> bytes:
    if not is_file(path) or path.stat().st_size > MOST_BYTES:
        raise BundleError(f"{path} is larger than any signature", "do not use this bundle")
    return read_bytes(path, "signature", BundleError)


def _manifest_bytes(bundle: Bundle) -> bytes:
    """The manifest that was opened, byte for byte."""
    content = bundle.reading(lambda place: read_bytes(place / MANIFEST, "manifest", BundleError))
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise BundleError(f"{bundle.root / MANIFEST} changed while it was read", "open the bundle again")
    return content


def _by_ssh(bundle: Bundle, key: re.Match[str], signature: Path) -> str:
    """What ``ssh-keygen -Y verify`` finds wrong; empty if nothing."""
    signers = signature.parent / "signers"
    signers.write_text(f'{NAMESPACE} namespaces="{NAMESPACE}" {key[1]} {key[2]}\n', encoding="ascii")
    words = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", NAMESPACE, "-n", NAMESPACE, "-s", str(signature)]
    seconds = waiting_seconds(SECONDS)
    try:
        done = subprocess.run(words, input=_manifest_bytes(bundle), capture_output=True, check=False, timeout=seconds)
    except FileNotFoundError:
        raise MissingError("this needs ssh-keygen, which is not installed", "apt-get install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise BundleError(f"ssh-keygen takes longer than {seconds:g} s to check {signature.name}", LONGER) from None
    except subprocess.SubprocessError as problem:
        raise BundleError(f"ssh-keygen could not check {signature.name}: {first_line(problem)}", "run it yourself") from None
    if done.returncode == 0:
        return ""
    said = (done.stderr + done.stdout).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in said if line.strip()), "ssh-keygen does not say why").rstrip(".")


def _by_openssf(bundle: Bundle, key: Path, signature: Path) -> str:
    """What model-signing finds wrong; empty if nothing. Files that are not signed are left to the checksums and to ``verify``."""
    needs("model_signing", extra="sign")
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=key).set_ignore_unsigned_files(True)
    try:
        bundle.reading(lambda place: config.verify(place, signature))
    except BundleError:
        raise
    except Exception as problem:  # the library raises what its own libraries do
        return first_line(problem)
    covered = _covered(read_bytes(signature, "signature", BundleError))
    return "" if covered == bundle.sha256 else f"it does not cover {MANIFEST}"


def _covered(signature: bytes) -> str:
    """The sha256 of ``manifest.json`` that a checked signature states, an in-toto statement in a DSSE envelope; empty if none."""
    try:
        document: Any = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
        resources = {resource["name"]: resource for resource in document["predicate"]["resources"]}
        return str(resources[MANIFEST]["digest"]) if resources[MANIFEST]["algorithm"] == "sha256" else ""
    except (ValueError, KeyError, TypeError, binascii.Error):
        return ""
