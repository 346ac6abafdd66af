"""Manifests of other schemas in today's form: older ones are upgraded, newer ones lose their unknown fields."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.files import is_onnx

_NAMES = {"fp32": "float32", "fp16": "float16", "fp64": "float64", "bf16": "bfloat16"}


def upgraded(document: dict[str, Any], schema: int) -> dict[str, Any]:
    """A manifest of an older ``schema`` in today's form; damaged values are left for ``decode_manifest`` to report.

    Schema 1 named one layer that a norm was folded into. Schema 2 names all of them. Schema 3 added the written file's error.
    Schema 4 gives a variant its allowance, its error and ``made_by``, names it after its dtype, and adds ``reference`` and
    ``reads_from``. Schema 5 adds evidence, golden parts and pictures, all of them optional.
    """
    if schema == 1:
        for fold in _dicts(_dict(document.get("fold")).get("folded")):
            if isinstance(fold.get("into"), str):
                fold["into"] = [fold["into"]]
    document.setdefault("reads_from", schema)
    if schema >= 4:
        return document
    golden, source = _dict(document.get("golden")), _dict(document.get("source"))
    _rename(golden, "float32_error", "original_error")
    golden["reference"] = _reference(source.get("model"), golden.get("original_error"))
    error, version = _dict(document.get("fold")).get("error_exported"), _dict(document.get("tools")).get("edgekit")
    made_by = {"command": "export", "edgekit": version}
    for variant in _dicts(document.get("variants")):
        _upgrade_variant(variant)
        variant["error"], variant["made_by"] = error, made_by
        error, made_by = None, {}  # edgekit of these schemas wrote one variant only, so both belong to the first
    return document


def only_known(value: Any, kind: Any) -> Any:
    """``value`` without the fields that the struct ``kind``, and those inside it, do not have."""
    from msgspec import inspect

    return _only_known(value, inspect.type_info(kind))


def _only_known(value: Any, kind: msgspec.inspect.Type) -> Any:
    from msgspec import inspect

    if isinstance(kind, inspect.UnionType):
        for choice in kind.types:
            value = _only_known(value, choice)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        return {name: _only_known(item, fields[name]) for name, item in value.items() if name in fields}
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {name: _only_known(item, kind.value_type) for name, item in value.items()}
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_only_known(item, kind.item_type) for item in value]
    return value


def _reference(model: Any, original_error: Any) -> str:
    """The origin of the float64 outputs, told by the source's name and by an ``original_error`` of None in older schemas."""
    if original_error is None:
        return "the original ONNX file in its own dtype, unoptimised (recorded)"
    if isinstance(model, str) and is_onnx(model):
        return "the original ONNX file in float64 (recorded)"
    return "PyTorch float64, unfolded (recorded)"


def _upgrade_variant(variant: dict[str, Any]) -> None:
    name = variant.get("name")
    if isinstance(name, str):
        variant["name"] = _NAMES.get(name, name)
    if "tolerance" in variant:
        variant["allowance"] = {"tolerance": variant.pop("tolerance")}


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    if old in values:
        values[new] = values.pop(old)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
