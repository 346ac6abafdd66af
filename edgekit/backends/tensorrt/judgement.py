"""Whether an engine computes in what was asked for: first the network it was built of, then the engine, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgekit.backends.tensorrt.flavour import Flavour
from edgekit.backends.tensorrt.names import NAMELESS, fused_parts, some
from edgekit.backends.tensorrt.precision import NetworkLayers
from edgekit.bundle.manifest import Conversion
from edgekit.reports.build import EngineLayer, PrecisionReport

STRONG, CONSTRAINED = "strongly typed: the file's types are binding", "weakly typed: layers are constrained to the file's types"
QUANTISED = ("int8", "int4", "float8", "float4")
"""A layer between Q and DQ may legally run in the type that DQ gives; that it need not is why the file was quantised."""
GENERATED = "kgen"


class Inspected(NamedTuple):
    """The layers of a built engine, or None with the reason ``why_not``."""

    layers: tuple[EngineLayer, ...] | None
    why_not: str = ""

    @property
    def telling(self) -> tuple[EngineLayer, ...]:
        """Layers that compute and whose precision is known."""
        return tuple(engine_layer for engine_layer in self.layers or () if engine_layer.computes and engine_layer.precisions)


class Read(NamedTuple):
    """An engine's layers by ONNX node (``nodes``), and those that name no node (``others``)."""

    nodes: dict[str, list[EngineLayer]]
    others: tuple[EngineLayer, ...]


def judge(
    asked: str,
    flavour: Flavour,
    planned: NetworkLayers,
    inspected: Inspected,
    tf32: bool,
    conversion: Conversion | None = None,
) -> PrecisionReport:
    """The network against what was asked for, and the engine, as far as it tells, against the network.

    Both are held against ``conversion`` too, what the manifest says of a converted file: float32 where it says otherwise is a
    problem, however fast it may be.
    """
    telling = inspected.telling
    read = _by_node(telling, planned.nodes)
    off = [node for node, layers in read.nodes.items() if not _fits(planned.nodes[node], layers)]
    fallen = [node for node in off if planned.nodes[node] in QUANTISED]
    unread = [node for node in planned.nodes if node not in read.nodes]
    problems = [*_against_asked(asked, planned.precisions), *_tf32(inspected.layers or (), tf32)]
    problems += _wrong(read, [node for node in off if node not in fallen], planned)
    if conversion is None or asked not in QUANTISED:
        problems += _fallen(fallen, planned)
    problems += [] if unread or not telling else _lost(asked, telling, planned)
    if conversion is not None:
        problems += _too_few(asked, conversion, planned, fallen) if asked in QUANTISED else ()
        problems += _too_wide(conversion, planned, read, unread) if asked == "float16" else ()
    sure = [_likeliest(engine_layer, planned.precisions) for engine_layer in telling]
    return PrecisionReport(
        asked=asked + (", quantised" if set(planned.precisions) & set(QUANTISED) else ""),
        typing=STRONG if flavour.strongly_typed else CONSTRAINED,
        read_from="engine" if telling and not unread else "both" if telling else "network",
        found=tuple(dict.fromkeys((*sure, *(planned.precisions if unread or not telling else ())))),
        problems=tuple(problems),
        engine=tuple(inspected.layers or ()),
        note="; ".join(filter(None, _notes(inspected, read, fallen, unread, planned))),
        in_network=planned.totals,
        in_engine=dict(Counter(sure).most_common()),
        untold=sum(engine_layer.computes and not engine_layer.precisions for engine_layer in inspected.layers or ()),
    )


def _too_few(asked: str, conversion: Conversion, planned: NetworkLayers, fallen: Sequence[str]) -> list[str]:
    """A converted file has so many layers in its precision as its manifest counts, and so has the engine, as far as it tells."""
    converted = [node for node, precision in planned.nodes.items() if precision in QUANTISED]
    kept = {node.node for node in conversion.kept}
    wide = [node for node in planned.nodes if node not in converted and node.removeprefix(NAMELESS) not in kept]
    if len(converted) < conversion.converted:
        others = f": not {some(wide)}" if wide else ""
        return [f"the manifest counts {conversion.converted} layers in {asked}, and the network has {len(converted)}{others}"]
    if len(converted) - len(fallen) < conversion.converted:
        return [
            f"{len(fallen)} of {len(converted)} {asked} layers run in a wider type: {some(fallen)}, "
            "which edgekit quantize --keep would leave in float on purpose"
        ]
    return []


def _too_wide(conversion: Conversion, planned: NetworkLayers, read: Read, unread: Sequence[str]) -> list[str]:
    """Of a float16 file only the kept nodes compute in float32; an engine's layers that name no node may be these."""
    kept = {node.node for node in conversion.kept}
    wide = [name for name, precision in planned.nodes.items() if precision == "float32"]
    beyond = [name for name in wide if name.removeprefix(NAMELESS) not in kept]
    if not set(wide) & set(unread):
        beyond += [
            engine_layer.name
            for engine_layer in read.others
            if engine_layer.kind != GENERATED and engine_layer.precisions == ("float32",)
        ]
    return [f"{len(beyond)} layer(s) are float32 that the manifest does not list among the kept: {some(beyond)}"] * bool(beyond)


def _by_node(telling: Sequence[EngineLayer], nodes: Mapping[str, str]) -> Read:
    by_node: dict[str, list[EngineLayer]] = {}
    others = []
    for engine_layer in telling:
        named = [node for node in engine_layer.onnx_nodes or fused_parts(engine_layer.name) if node in nodes]
        for node in named:
            by_node.setdefault(node, []).append(engine_layer)
        if not named:
            others.append(engine_layer)
    return Read(by_node, tuple(others))


def _fits(precision: str, layers: Sequence[EngineLayer]) -> bool:
    """Whether every layer of a node computes in ``precision``; of generated kernels, which nodes share, one is enough."""
    return all(precision in engine_layer.precisions for engine_layer in layers if engine_layer.kind != GENERATED) and any(
        precision in engine_layer.precisions for engine_layer in layers
    )


def _against_asked(asked: str, in_network: Sequence[str]) -> list[str]:
    """A file computes in the type it is stored in, unless it is quantised or of several types."""
    if in_network and asked not in in_network and not set(in_network) & set(QUANTISED):
        return [f"{asked} was asked for, and the network computes in {', '.join(in_network)}"]
    return []


def _wrong(read: Read, off: Sequence[str], planned: NetworkLayers) -> list[str]:
    wrong = [f"{node} in {_other(read.nodes[node], planned.nodes[node])} instead of {planned.nodes[node]}" for node in off]
    wrong += [
        f"{engine_layer.name} in {engine_layer.precisions[0]}"
        for engine_layer in read.others
        if planned.precisions and not set(engine_layer.precisions) & set(planned.precisions)
    ]
    if not wrong:
        return []
    return [f"{len(wrong)} layer(s) run in another precision than the network's {', '.join(planned.precisions)}: {some(wrong)}"]


def _other(layers: Sequence[EngineLayer], precision: str) -> str:
    return next(engine_layer.precisions[0] for engine_layer in layers if precision not in engine_layer.precisions)


def _fallen(fallen: Sequence[str], planned: NetworkLayers) -> list[str]:
    quantised = [node for node, precision in planned.nodes.items() if precision in QUANTISED]
    if 2 * len(fallen) <= len(quantised):
        return []
    return [f"{len(fallen)} of {len(quantised)} quantised layers run in a wider type: {some(fallen)}"]


def _lost(asked: str, telling: Sequence[EngineLayer], planned: NetworkLayers) -> list[str]:
    if asked not in planned.precisions or any(asked in engine_layer.precisions for engine_layer in telling):
        return []
    return [f"no layer of the engine computes in {asked}"]


def _tf32(engine: Sequence[EngineLayer], allowed: bool) -> list[str]:
    """Layers that round to TF32, of every kind: a kernel of several nodes may be of any kind."""
    rounding = [engine_layer.name for engine_layer in engine if "tf32" in engine_layer.tactic.lower()]
    if not rounding or allowed:
        return []
    return [f"TF32 is off, and {len(rounding)} layer(s) use it: {some(rounding)}"]


def _notes(
    inspected: Inspected, read: Read, fallen: Sequence[str], unread: Sequence[str], planned: NetworkLayers
) -> tuple[str, ...]:
    telling = inspected.telling
    if not telling:
        why_not = inspected.why_not or "the engine does not say what its layers compute in"
        return (f"read off the network, not off the engine: {why_not}",)
    unclear = [
        f"{engine_layer.name} in {' or '.join(engine_layer.precisions)}"
        for engine_layer in telling
        if len(engine_layer.precisions) > 1
    ]
    quantised = sum(precision in QUANTISED for precision in planned.nodes.values())
    return (
        f"the engine does not say of {len(unread)} of {len(planned.nodes)} layers what they compute in: {some(unread)}"
        * bool(unread),
        f"{len(fallen)} of {quantised} quantised layers run in a wider type: {some(fallen)}" * bool(fallen),
        f"of {len(unclear)} layer(s) the engine does not say which it is: {some(unclear)}" * bool(unclear),
    )


def _likeliest(engine_layer: EngineLayer, in_network: Sequence[str]) -> str:
    return next((precision for precision in engine_layer.precisions if precision in in_network), engine_layer.precisions[0])
