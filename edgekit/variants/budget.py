"""What a variant may cost at most: the caller's budget, as written on the command line and in recipes."""

from __future__ import annotations

import re
from typing import NamedTuple

from edgekit.errors import UsageError

_FORMS = re.compile(r"(?:accuracy=-(?P<points>\d+(?:\.\d+)?)pt|snr=(?P<db>\d+(?:\.\d+)?)dB)", re.I)


class Budget(NamedTuple):
    """At most so many ``points`` (hundredths) of accuracy lost, or an SNR of at least ``snr_db``, as written in ``text``."""

    text: str
    points: float | None = None
    snr_db: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``accuracy=-0.3pt`` or ``snr=30dB``; raises UsageError for anything else."""
        form = _FORMS.fullmatch(text.strip())
        if form is None:
            raise UsageError(f"--budget {text!r} is no budget", "write it like accuracy=-0.3pt or snr=30dB")
        points, decibels = form["points"], form["db"]
        return cls(text.strip(), float(points) if points else None, float(decibels) if decibels else None)
