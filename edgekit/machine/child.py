"""Run work in a child process: one that crashes, takes too long or too much memory becomes one sentence."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

Answer: TypeAlias = "dict[str, Any]"
"""The JSON object that a child printed last."""
Kind: TypeAlias = Literal["time", "memory", "output", "signal", "exit", "silence"]
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_STEP = 0.02


class Limits(NamedTuple):
    """What a child may use: wall clock, memory that is resident in it and in its own children, and what it prints.

    RLIMIT_AS would count address space, of which PyTorch and CUDA reserve gigabytes that they never touch: memory is watched.
    """

    seconds: float
    memory_bytes: int | None = None
    output_bytes: int = 64 << 20


class Failure(NamedTuple):
    """Why a child gave no answer: ``event`` is what it did, as the rest of a sentence; ``said``: its own last line of stderr."""

    kind: Kind
    event: str
    said: str = ""

    @property
    def remedy(self) -> str:
        """What to do about it; empty where edgekit knows nothing."""
        from edgekit.machine.bounds import LONGER  # here: a child that only answers does without

        return LONGER if self.kind == "time" else ""

    def reason(self, subject: str = "it") -> str:
        """The child's own message, or else ``subject`` and the event."""
        return self.said or f"{subject} {self.event}"

    def sentence(self, subject: str = "it") -> str:
        """The reason with its remedy."""
        return f"{self.reason(subject)}; {self.remedy}" if self.remedy else self.reason(subject)


def run_child(module: str, arguments: Sequence[str], limits: Limits, key: str = "") -> Answer | Failure:
    """Run ``python -m module arguments`` and give the JSON object that it printed last, of those that have ``key``.

    It runs in an empty folder, where one can be made, with the edgekit that runs here, and reads no input. It and all that it has
    started are ended when it is done, over a limit, or when this process is interrupted.
    """
    with _neutral_folder() as made, _scratch() as out, _scratch() as err:
        command = [sys.executable, "-m", "edgekit.machine.child", module, *arguments]
        process = subprocess.Popen(
            command,
            cwd=made or Path(os.__file__).parent,  # where none can be made, the one of modules that are found anyway
            env=_environment(made),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            overrun = _watch(process, limits, (out, err))
        finally:
            _end(process)
        return overrun or _outcome(process.returncode, _text(out), _text(err), key)


def answer(facts: Answer) -> None:
    """Print ``facts`` as a child's answer, on a line of its own whatever was printed before."""
    sys.stdout.write(f"\n{json.dumps(facts)}\n")
    sys.stdout.flush()


def _environment(made: str | None) -> dict[str, str]:
    """PYTHONPATH stays as the user means it here, behind the edgekit that runs here; an empty entry would be the new folder.

    Temporary files go into the folder that was ``made``, with which they are removed, however the child ends.
    """
    named = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    root = str(Path(__file__).parents[2])
    installed = root in (*site.getsitepackages(), site.getusersitepackages())  # all else there must not get ahead of anything
    found = {"PYTHONPATH": os.pathsep.join(named if installed else [root, *named])}
    return os.environ | found | ({} if made is None else {"TMPDIR": made})


@contextlib.contextmanager
def _neutral_folder() -> Iterator[str | None]:
    """An empty folder, which also takes what a crash leaves; None where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgekit-", ignore_cleanup_errors=True)
    except OSError:
        yield None
        return
    with folder as name:
        yield name


def _scratch() -> IO[bytes]:
    """A file without a name, in memory where the system has such: a pipe would stay open as long as a grandchild holds it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("edgekit"), "w+b")
    return tempfile.TemporaryFile()


def _watch(process: subprocess.Popen[bytes], limits: Limits, files: Sequence[IO[bytes]]) -> Failure | None:
    """Wait for the end; the first limit that it goes over."""
    deadline = time.monotonic() + limits.seconds
    ended = False
    while not ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, min(_STEP, deadline - time.monotonic())))
            ended = True
        if sum(os.fstat(file.fileno()).st_size for file in files) > limits.output_bytes:
            return Failure("output", f"prints more than {limits.output_bytes / 1e6:g} MB")
        if not ended and limits.memory_bytes is not None and _resident(process.pid) > limits.memory_bytes:
            return Failure("memory", f"takes more than {limits.memory_bytes / 1e6:g} MB of memory")
        if not ended and time.monotonic() >= deadline:
            return Failure("time", f"takes longer than {limits.seconds:g} s")
    return None


def _resident(pid: int) -> int:
    """Bytes of memory in use by a process and all below it."""
    import psutil  # here: a child that only answers does without

    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                total += process.memory_info().rss
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and its process group, which is its own."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _outcome(code: int, printed: str, complained: str, key: str) -> Answer | Failure:
    if code < 0:
        return Failure("signal", f"crashes with signal {-code}")
    if code:
        lines = [line.strip() for line in complained.splitlines() if line.strip()]
        return Failure("exit", f"exits with {code}", lines[-1] if lines else "")
    objects = (_object(line) for line in reversed(printed.splitlines()))
    facts = next((facts for facts in objects if facts is not None and (not key or key in facts)), None)
    return Failure("silence", "ends before it answers") if facts is None else facts


def _object(line: str) -> Answer | None:
    """The JSON object that a line is; None for anything else that a runtime prints."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        facts: Answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return facts


def die_with_parent() -> None:
    """End this process when the one that started it ends, however that does: a session of its own would go on for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def _run_as_child(module: str, *arguments: str) -> None:
    die_with_parent()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_as_child(*sys.argv[1:])
