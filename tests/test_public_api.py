"""What programs rely on: the names of the package and their signatures, as ``tests/public_api.txt`` has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import edgekit

FROZEN = Path(__file__).parent / "public_api.txt"


def signature(function: Any) -> str:
    """The signature as it is written: without quotes around annotations, addresses, and this system's kind of path."""
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"'\1'", re.sub(r" at 0x\w+", "", str(inspect.signature(function))))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("PosixPath", "Path")


def described(name: str, thing: Any) -> Iterator[str]:
    """A line for a function or a constant; for a class one for each of its public members as well."""
    if not callable(thing):
        yield f"{name}: {type(thing).__name__}"
        return
    if not isinstance(thing, type):
        yield f"{name}{signature(thing)}"
        return
    if issubclass(thing, msgspec.Struct):
        yield f"{name}({', '.join(map(field_of(thing), msgspec.structs.fields(thing)))})"
    elif issubclass(thing, tuple):
        yield f"{name}{signature(thing)}"
    else:  # it is made by a function
        yield from (f"{name}.{member}: {kind}" for member, kind in inspect.get_annotations(thing).items())
    for member, value in sorted(vars(thing).items()):
        if isinstance(value, property):
            yield f"{name}.{member} -> {inspect.get_annotations(value.fget)['return'] if value.fget else ''}"
        elif (not member.startswith("_") or member == "__call__") and isinstance(value, (classmethod, staticmethod)):
            yield f"{name}.{member}{signature(getattr(thing, member))}"
        elif (not member.startswith("_") or member == "__call__") and inspect.isfunction(value):
            yield f"{name}.{member}{signature(value)}"


def field_of(struct: type[msgspec.Struct]) -> Callable[[Any], str]:
    def written(field: Any) -> str:
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        needed = default is msgspec.NODEFAULT
        return f"{field.name}: {struct.__annotations__[field.name]}" + ("" if needed else f" = {default!r}")

    return written


def public_api() -> str:
    return "".join(f"{line}\n" for name in edgekit.__all__ for line in described(f"edgekit.{name}", getattr(edgekit, name)))


def test_the_public_names_and_signatures_are_the_frozen_ones() -> None:
    assert public_api() == FROZEN.read_text(encoding="utf-8"), "\n".join(
        ("if programs may see this change, say so in CHANGELOG.md, and run python -m tests.test_public_api:", public_api())
    )


def test_a_new_parameter_is_seen(monkeypatch: Any) -> None:
    def load(bundle: Path | str, more: int = 1) -> None: ...

    monkeypatch.setattr(edgekit, "load", load, raising=False)
    assert public_api() != FROZEN.read_text(encoding="utf-8")


def test_every_public_name_is_there_and_in_order() -> None:
    assert len(edgekit.__all__) == len(set(edgekit.__all__))
    assert set(edgekit.__all__) <= {*dir(edgekit)}
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None


if __name__ == "__main__":
    FROZEN.write_text(public_api(), encoding="utf-8")
