"""Where a bundle comes from: who answers for it, of which code and which data. Optional; bundles of older edgekits have none."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Sha256 = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


class DataSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the network was trained on; ``sha256`` changes when a picture or a class does, and is empty where it is not known."""

    name: str
    sha256: Sha256 = ""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights came about, beside the recipe in ``source``.

    ``initial_sha256`` is that of the weights at the start, ``versions`` are those of the packages that trained. ``commit`` and
    ``changed`` are as in ``Provenance``, at the training. Times are left out: the same training gives the same bundle.
    """

    epochs: Annotated[int, Meta(ge=0)]
    seed: int | None = None
    initial_sha256: Sha256 = ""
    commit: str = ""
    changed: bool = False
    versions: dict[str, str] = {}


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who answers for a bundle, and what it was made from; what is empty is not known.

    ``license`` is an SPDX expression. ``created`` is the time of SOURCE_DATE_EPOCH, as RFC 3339 in UTC: without that the same
    export gives the same bytes on any day. ``commit`` is that of the git repository around the folder of the export;
    ``changed``: tracked files differed from it, apart from bundles.
    """

    license: str = ""
    author: str = ""
    created: str = ""
    commit: str = ""
    changed: bool = False
    data: DataSet | None = None
    training: Training | None = None
