"""Files that are whole or absent: written beside their place, then renamed into it; and their fingerprints."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path, user_state_path

from edgekit import atomic
from edgekit.errors import EdgekitError, InputError, OutputError

_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip
MOST_QUOTED = 60
"""Characters of what is no path that a sentence quotes."""


def cache_root() -> Path:
    """Where edgekit keeps what it can make again: ``$EDGEKIT_CACHE``, ``$XDG_CACHE_HOME/edgekit`` or the platform's cache folder.

    Raises OutputError where there is none of them.
    """
    return _folder_of("CACHE", user_cache_path, "a cache")


def state_root() -> Path:
    """Where edgekit keeps what this machine found out: ``$EDGEKIT_STATE``, ``$XDG_STATE_HOME/edgekit`` or the platform's folder.

    Raises OutputError where there is none of them.
    """
    return _folder_of("STATE", user_state_path, "state")


def state_folder(manifest_sha256: str) -> Path:
    """Where to keep what this machine finds out about the bundle whose manifest.json has this sha256: it is never written to."""
    return state_root() / "bundles" / manifest_sha256


def _folder_of(kind: str, platforms: Callable[..., Path], what: str) -> Path:
    own, shared = os.environ.get(f"EDGEKIT_{kind}"), os.environ.get(f"XDG_{kind}_HOME")
    if own or shared:
        return Path(own) if own else Path(str(shared), "edgekit")
    if os.path.expanduser("~") == "~" or os.environ.get("HOME") == "":  # no such user, or what would be the root folder
        raise OutputError(f"HOME names no home folder to keep {what} in", f"let EDGEKIT_{kind} name a folder of yours")
    return platforms("edgekit", appauthor=False)


def as_path(given: object, what: str, error: type[EdgekitError] = InputError) -> Path:
    """The path that a caller names; raises ``error``, with a sentence that calls it ``what``, for what is none.

    A path is text or a ``PathLike`` of text, without a NUL, which no file's name has; empty text would be the folder here.
    """
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str) or not text:
        raise error(f"{what} was given as {repr(given)[:MOST_QUOTED]}, which is no path", "give it as text or as a pathlib.Path")
    if "\0" in text:
        raise error(f"{what} {text} has a NUL in its name, which no file has", "check the path")
    return Path(text)


def as_paths(given: object, what: str, error: type[EdgekitError] = InputError) -> list[Path]:
    """The paths of one or of several, as ``as_path`` takes each."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        return [as_path(each, what, error) for each in given]
    return [as_path(given, what, error)]


def is_onnx(name: str | Path) -> bool:
    """Whether a file of this name is taken for an ONNX file: by its suffix, in any case."""
    return Path(name).suffix.lower() == ".onnx"


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces of 1 MiB; raises OSError for what is no regular file, such as a pipe."""
    digest = hashlib.sha256()
    with opened(path) as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def kind_at(path: Path) -> str:
    """What is at ``path`` itself, a link that is not followed among it: ``file``, ``folder``, ``pipe``; empty for nothing."""
    try:
        return _KINDS.get(stat.S_IFMT(path.lstat().st_mode), "special file")
    except OSError:
        return ""


class NotRegularError(OSError):
    """Something other than a regular file is there, such as a folder or a pipe."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is not a regular file", str(path))


def opened(path: Path) -> BinaryIO:
    """Open a file to read its bytes; raises OSError, and NotRegularError for what is no regular file, without waiting for it.

    What is asked is the file that is open: another may take its place by its name between a look and the opening.
    """
    if path.is_dir():  # some systems refuse to open one
        raise NotRegularError(path)
    try:
        descriptor = os.open(path, _AT_ONCE)
    except OSError as problem:
        raise (NotRegularError(path) if problem.errno == errno.ENXIO else problem) from None  # a socket
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(path)
    return os.fdopen(descriptor, "rb")


_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""To open without waiting for the writer of a pipe."""


def fingerprints(paths: Iterable[Path]) -> list[str]:
    """The sha256 of each file, empty for one that is not there."""
    return [sha256_of(path) if path.is_file() else "" for path in paths]


def read_bytes(path: Path, what: str, error: type[InputError] = InputError, most: int | None = None) -> bytes:
    """The bytes of ``path``; raises ``error`` with a sentence that calls the file ``what``, also where it has more than ``most``.

    No more than that is read, whatever size the file system tells.
    """
    path = as_path(path, what, error)
    try:
        with opened(path) as stream:
            content = stream.read() if most is None else stream.read(most + 1)
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist", "check the path") from None
    except NotRegularError:
        raise error(f"{what} {path} is not a regular file", "check the path") from None
    except OSError as problem:
        raise error(f"{what} {path} cannot be read: {problem.strerror}", "check the path and its permissions") from None
    if most is not None and len(content) > most:
        raise error(f"{what} {path} has more than {most:,} bytes", "check the path")
    return content


_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
          (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
"""Byte order marks; UTF-32's little one begins as UTF-16's does."""


def read_text(path: Path, what: str, error: type[InputError] = InputError) -> str:
    """The text of ``path``: UTF-8, or what its byte order mark says.

    Raises ``error`` with a sentence that calls the file ``what``.
    """
    content = read_bytes(path, what, error)
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    remedy = "save it as UTF-8"
    if not mark and b"\0" in content:
        raise error(
            f"{what} {path} is not UTF-8: it has NUL bytes, as UTF-16 without a byte order mark and binary files have", remedy
        )
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as problem:
        line = content[: len(mark) + problem.start].count(b"\n") + 1
        byte = problem.object[problem.start]
        raise error(f"{what} {path} is not {encoding.upper()}: byte 0x{byte:02x} in line {line}", remedy) from None


def destination(path: Path) -> Path:
    """Where a file written to ``path`` goes: a link stays and what it points to is replaced, as by a shell's ``>``.

    Raises OutputError where something other than a regular file is there, which no rename may sweep away.
    """
    _check_name(path)
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = stat.S_IFDIR if place.name in ("", "..") else place.stat().st_mode
    except FileNotFoundError:
        return place
    except OSError as problem:
        raise write_error(path, problem) from problem
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise OutputError(f"cannot write {path}: a {kind} of that name is there", "choose another name")
    return place


@contextmanager
def replacing(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``, on failure it goes away.

    A link is followed, see ``destination``, and the permissions of a file that is replaced are kept. ``check`` is that of
    ``replacing_folder``. Raises OutputError for what is no file, when the folder cannot be written or the disk is full; what was
    at ``path`` stays.
    """
    try:
        place = destination(path)
        if not path.is_symlink():  # where it points to is not this path's to make
            place.parent.mkdir(parents=True, exist_ok=True)
        with atomic.prepared(place, folder=False) as temporary:
            yield temporary
            os.chmod(temporary, _permissions(place))  # last: they may not allow writing
            atomic.put(temporary, place, check)
    except OSError as problem:
        raise write_error(path, problem) from problem


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files: none takes its place before all are written, and then each does in this order."""
    with ExitStack() as stack:
        for path, content in reversed(list(contents.items())):  # what is entered last is left first
            stack.enter_context(replacing(path)).write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


@contextmanager
def replacing_folder(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; on success it takes its place, on failure it goes away.

    Whether the old content may go is for the caller to decide: beforehand, or by ``check``, which raises where it may not and is
    called while no other writer can come. Raises OutputError for a link and what is no folder.
    """
    _check_name(folder)

    def checks() -> None:
        _check_folder(folder)
        check()

    try:
        _check_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.prepared(folder, folder=True) as temporary:
            yield temporary
            os.chmod(temporary, _mode_of(folder))  # last, as for files
            atomic.put(temporary, folder, checks)
    except OSError as problem:
        raise write_error(folder, problem) from problem


def _check_folder(folder: Path) -> None:
    """Raise OutputError for a link and what is no folder."""
    if folder.is_symlink():
        raise OutputError(f"cannot write {folder}: a link is there", "give the folder that it points to")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: something that is not a folder is there", "choose another name")


def _mode_of(folder: Path) -> int:
    """The mode of ``folder``, also while another writer is between two renames of it; of a new folder where there is none."""
    try:
        return stat.S_IMODE(folder.stat().st_mode)
    except FileNotFoundError:
        held = atomic.hold(folder)  # waits for that writer
        return 0o777 & ~_umask() if held is None else stat.S_IMODE(held.status().st_mode)


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in ``folder``, or in the first folder above it: better before long work."""
    _check_name(folder)
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as problem:
        raise write_error(folder, problem) from problem


def check_outside(path: Path, bundle: Path) -> None:
    """Raise OutputError where ``path`` lies in the folder of a bundle, by way of links too: nothing is added to one."""
    if Path(os.path.realpath(bundle)) in Path(os.path.realpath(path)).parents:
        raise OutputError(f"cannot write {path}: it lies in {bundle}, and a bundle is immutable", "choose a place outside of it")


def write_error(path: Path, problem: OSError) -> OutputError:
    """The sentence for a failed write."""
    remedy = {
        errno.ENOSPC: "free some disk space",
        errno.EDQUOT: "free some of your quota",
        errno.EACCES: "choose a folder you may write to",
        errno.EPERM: "choose a folder you may write to",
        errno.EROFS: "choose a folder you may write to",
        errno.ENOTDIR: "choose a path whose parents are folders",
        errno.EEXIST: "choose a path whose parents are folders",
        errno.ENAMETOOLONG: "choose a shorter name",
    }.get(problem.errno or 0, "check the path")
    return OutputError(f"cannot write {path}: {problem.strerror or problem}", f"{remedy}, nothing was changed there")


def _permissions(place: Path) -> int:
    """The mode of the file that is replaced, or of a new file under the umask."""
    try:
        return place.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _check_name(path: Path) -> None:
    if "\0" in str(path):
        raise OutputError(f"cannot write {path}: it has a NUL in its name, which no file has", "choose another name")
    if "-" in (path.name, *path.parts[:1]):
        raise OutputError(f"cannot write {path}: - stands for a stream, and this is written as files", "give it a name")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def check_name(name: str) -> bool:
    """Whether ``name`` is safe as a folder: letters, digits, dot, dash, underscore, not starting with a dot."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) is not None
