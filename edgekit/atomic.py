"""Putting a finished file or folder in its place at once, among other writers and readers; and what killed writers left behind.

A writer prepares its work under a hidden name beside the place, ``.NAME.HASH.XXXXXXXX.part``, which it keeps locked (flock) as
long as it lives: what is not locked belongs to a writer that was killed, and the next one removes it. Two folders change places
in one step (renameat2 with RENAME_EXCHANGE, Linux 3.15); where the kernel or the file system cannot, there is a moment without
the folder. Data reach the disk before the new name does.

A reader of a folder keeps it with a shared lock: a writer then moves the folder aside and does not remove it. The last reader
removes it, or the next writer.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
"""What renameat2 says where the kernel, the file system or a sandbox cannot exchange."""
SUFFIX = ".part"
_ANY_PART = r"\..{1,50}\.[0-9a-f]{12}\.[a-z0-9_]{8}" + re.escape(SUFFIX)
PATIENCE = 10.0
"""Seconds to wait for a lock that another process holds; the work goes on without it then."""
MOVES = 4
"""Attempts to read a folder that is held: a writer moves it twice at most, and then it stays where it is."""
_PAUSE, PAUSE_OF_TURNS = 0.005, 0.2
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


@contextmanager
def prepared(place: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new hidden file or folder beside ``place``, which goes away afterwards, whatever it then is.

    What killed writers of the same place left behind is removed. Raises OSError where nothing can be made there.
    """
    with ExitStack() as stack:
        with _locked(place.parent) as alone:  # so that nobody takes it for a dead writer's before it is locked
            if alone and os.path.lexists(place):  # else what lies there may be all that a killed writer has left of the old
                _sweep(place, folder)
            temporary = _new(place, folder)
            stack.callback(_remove_unread, temporary)
            stack.enter_context(_locked(temporary))
        yield temporary


def put(new: Path, place: Path, check: Callable[[], None] = lambda: None) -> None:
    """Let ``new`` take the place of the file or folder ``place``; an old folder is afterwards where ``new`` was.

    Raises OSError, and what ``check`` raises, which is called while no other writer can come; what was at ``place`` is then still
    there.
    """
    _sync(new)
    with _locked(place.parent):
        check()
        if not (place.is_dir() and new.is_dir()):
            os.replace(new, place)
        elif not exchange(new, place):
            _exchange_in_steps(new, place)
    _sync_one(place.parent)


def remove_dead(folder: Path) -> None:
    """Remove every file in ``folder`` that a killed writer left there, whatever place it was meant for."""
    with _locked(folder) as alone, suppress(OSError):  # so that none is taken for a dead writer's before it is locked
        for path in list(folder.iterdir()) if alone else ():
            if re.fullmatch(_ANY_PART, path.name) and path.is_file() and not path.is_symlink():
                _remove_dead(path)


@contextmanager
def turn(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock on the file ``path``, which is made for it and then removed; ``waiting`` is called where another holds it.

    Two may work at once where the file cannot be locked, and rarely where one has waited: what they do must bear that.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:  # another user's
        yield
        return
    try:
        if _flock(handle) is False:
            waiting()
            while _flock(handle) is False:
                time.sleep(PAUSE_OF_TURNS)
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def exchange(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; false where that cannot be done here. Raises OSError."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(second))


def _exchange_in_steps(new: Path, place: Path) -> None:
    """The same with a moment without ``place`` between two renames."""
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place), suffix=SUFFIX))
    try:
        os.replace(place, aside)
    except OSError:
        aside.rmdir()
        raise
    try:
        os.replace(new, place)
    except BaseException:  # Ctrl-C too must not leave the place empty
        os.replace(aside, place)
        raise
    os.replace(aside, new)


class Hold:
    """A folder that stays as it is for a reader, wherever a writer moves it, as long as this object lives; see ``hold``.

    ``release()`` lets it go before.
    """

    def __init__(self, place: Path, handle: int) -> None:
        self.place, self._handle = place, handle
        self.identity = _identity_of(os.fstat(handle))
        self.release = weakref.finalize(self, _let_go, place, handle, os.getpid())

    @property
    def path(self) -> Path:
        """Where the folder is now: at its place, or where a writer has moved it."""
        for _ in range(MOVES):  # it may move between the two looks
            for path in (self.place, _path_of(self._handle)):
                if path is not None and _identity(path) == self.identity:
                    return path
        return self.place

    def status(self, name: str = ".") -> os.stat_result:
        """The status of a file of the folder, wherever that is; raises OSError."""
        return os.stat(name, dir_fd=self._handle)

    def __eq__(self, other: object) -> bool:
        """Two holds are equal that keep one folder."""
        return isinstance(other, Hold) and other.identity == self.identity

    def __hash__(self) -> int:
        """Fits ``__eq__``."""
        return hash(self.identity)


def hold(place: Path) -> Hold | None:
    """Keep the folder ``place`` for reading; None where there is no folder, or the file system has no locks."""
    until = time.monotonic() + PATIENCE
    while True:
        handle = _open_folder(place)
        if handle is None:
            return None
        held = _flock(handle, shared=True)
        if held and _identity(place) == _identity_of(os.fstat(handle)):  # else a writer may be removing it
            return Hold(place, handle)
        os.close(handle)
        if held is None or time.monotonic() > until:
            return None
        time.sleep(_PAUSE)


def between_renames(place: Path) -> bool:
    """Whether nothing is at ``place`` and a writer may be about to put something there."""
    try:
        return not os.path.lexists(place) and any(_is_part(path.name, place) for path in place.parent.iterdir())
    except OSError:
        return False


def _open_folder(place: Path) -> int | None:
    with suppress(OSError):
        return os.open(place, _FOLDER)
    with _locked(place.parent), suppress(OSError):  # a writer may be between two renames
        return os.open(place, _FOLDER)
    return None


def _let_go(place: Path, handle: int, pid: int) -> None:
    """End a hold; the last reader of a folder that a writer has moved aside removes it."""
    moved = _path_of(handle) if pid == os.getpid() else None  # a fork has the lock in common with its parent
    real = Path(os.path.realpath(place))
    if moved is None or moved.parent != real.parent or not _is_part(moved.name, real):
        os.close(handle)
        return
    with _locked(real.parent) as alone:  # else the writer may want to put it back
        if alone and os.path.lexists(real) and _flock(handle):
            _remove(moved)
        os.close(handle)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        return _identity_of(path.stat())
    except OSError:
        return None


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _path_of(handle: int) -> Path | None:
    """Where an open folder is now; None where the system does not tell."""
    try:
        import fcntl

        if hasattr(fcntl, "F_GETPATH"):  # macOS
            return Path(os.fsdecode(fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    except (ImportError, OSError):
        return None


@cache
def _renameat2() -> Any:
    """The C library's function, or None: musl and other systems than Linux have none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Hold a lock on a file or folder; yields whether it is held, None where there are no locks (some NFS, for folders)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        until = time.monotonic() + (PATIENCE if wait else 0.0)
        while (held := _flock(handle)) is False and time.monotonic() < until:
            time.sleep(_PAUSE)
        yield held
    finally:
        os.close(handle)


def _flock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock what is open, without waiting: false where another holds it, None where it cannot be locked at all."""
    try:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _new(place: Path, folder: bool) -> Path:
    if folder:
        return Path(tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place), suffix=SUFFIX))
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=_prefix(place), suffix=SUFFIX)
    os.close(handle)
    return Path(name)


def _prefix(place: Path) -> str:
    """How names beside ``place`` begin: a part that people know it by, short enough for any file system, and a hash of it all."""
    return f".{place.name[:50]}.{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]}."


def _is_part(name: str, place: Path) -> bool:
    """Whether a writer of ``place`` may have made a file or folder of this name."""
    return re.fullmatch(re.escape(_prefix(place)) + r"[a-z0-9_]{8}" + re.escape(SUFFIX), name) is not None


def _sweep(place: Path, folder: bool) -> None:
    """Remove what writers of ``place`` left behind that live no more: nobody holds its lock."""
    with suppress(OSError):
        for path in list(place.parent.iterdir()):
            if _is_part(path.name, place) and not path.is_symlink() and path.is_dir() is folder:
                _remove_dead(path)


def _remove_dead(path: Path) -> None:
    """Remove what no writer holds; what cannot be locked, like another user's, may be alive."""
    with _locked(path, wait=False) as dead:
        if dead:
            _remove(path)


def _remove_unread(path: Path) -> None:
    """Remove what a writer has aside, unless somebody reads it."""
    with _locked(path, wait=False) as alone:
        if alone is not False:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file, or a folder with everything in it, to the disk; raises OSError for a disk that is full or fails."""
    if path.is_dir():
        for inside in path.iterdir():
            _sync(inside)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    """Some file systems have no way to do this for folders, and a file may not be readable."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)
