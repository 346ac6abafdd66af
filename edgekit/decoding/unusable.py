"""Why a picture cannot be used, and the error that this becomes, which names its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import DataError, EdgekitError, MissingError, first_line


class Unusable(Exception):
    """A picture that was read but cannot be used; the message says why, ``remedy`` what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Whatever goes wrong with a picture becomes a DataError that names its file, where there is one."""
    picture = f"picture {path}".rstrip()
    try:
        yield
    except Unusable as reason:
        raise DataError(f"{picture} {reason}", reason.remedy) from None
    except EdgekitError:
        raise
    except MemoryError:  # of one picture: the next may fit
        raise DataError(f"{picture} needs more memory than there is", "give a smaller picture") from None
    except Exception as problem:  # decoders raise whatever a damaged file makes them trip over
        raise DataError(f"{picture} cannot be decoded: {first_line(problem)}", "replace the file") from None


def no_pillow() -> MissingError:
    """The error of whatever needs Pillow where it is not installed."""
    return MissingError("reading pictures needs Pillow", "pip install pillow")
