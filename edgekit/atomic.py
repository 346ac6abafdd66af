"""Putting a finished file or folder in its place at once, among other writers and readers; and what killed writers left behind.

A writer prepares its work under a hidden name beside the place, ``.NAME.XXXXXXXX.part``, which it keeps locked (flock) as long
as it lives: what is not locked belongs to a writer that was killed, and the next one removes it. Two folders change places in
one step (renameat2 with RENAME_EXCHANGE, Linux 3.15); where the kernel or the file system cannot, there is a moment without the
folder. Data reach the disk before the new name does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
"""What renameat2 says where the kernel, the file system or a sandbox cannot exchange."""
SUFFIX = ".part"
PATIENCE = 10.0
"""Seconds to wait for a lock that another process holds; the work goes on without it then."""


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
            stack.callback(_remove, temporary)
            stack.enter_context(_locked(temporary))
        yield temporary


def put(new: Path, place: Path) -> None:
    """Let ``new`` take the place of the file or folder ``place``; an old folder is afterwards where ``new`` was.

    Raises OSError; what was at ``place`` is then still there.
    """
    _sync(new)
    with _locked(place.parent):
        if not (place.is_dir() and new.is_dir()):
            os.replace(new, place)
        elif not exchange(new, place):
            _exchange_in_steps(new, place)
    _sync_one(place.parent)


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
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file or folder; yields whether it is held, which some file systems (NFS) do not offer for folders."""
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        until = time.monotonic() + (PATIENCE if wait else 0.0)
        while not (held := _flock(fcntl, handle)) and time.monotonic() < until:
            time.sleep(0.005)
        yield held
    finally:
        os.close(handle)


def _flock(fcntl: Any, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _new(place: Path, folder: bool) -> Path:
    if folder:
        return Path(tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place), suffix=SUFFIX))
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=_prefix(place), suffix=SUFFIX)
    os.close(handle)
    return Path(name)


def _prefix(place: Path) -> str:
    """How names beside ``place`` begin, short enough for any name that is itself allowed."""
    return f".{place.name[:50]}."


def _sweep(place: Path, folder: bool) -> None:
    """Remove what writers of ``place`` left behind that live no more: nobody holds its lock."""
    form = re.compile(re.escape(_prefix(place)) + r"[a-z0-9_]{8}" + re.escape(SUFFIX))
    with suppress(OSError):
        for path in list(place.parent.iterdir()):
            if form.fullmatch(path.name) and not path.is_symlink() and path.is_dir() is folder:
                with _locked(path, wait=False) as dead:
                    if dead:
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
