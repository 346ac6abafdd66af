"""Whether an engine computes in what was asked for: first the network it was built of, then the engine, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgekit.reports import EngineLayer, PrecisionReport
from edgekit.trt.flavour import Flavour
from edgekit.trt.names import fused_parts
from edgekit.trt.precision import NetworkLayers

STRONG, CONSTRAINED = "strongly typed: the file's types are binding", "weakly typed: layers are constrained to the file's types"
QUANTISED = ("int8", "int4", "float8", "float4")
"""A layer between Q and DQ may legally run in the type that DQ gives; that it need not is why the file was quantised."""
SHOWN = 3


class Inspected(NamedTuple):
    """What a built engine says of its layers; None, and ``why_not``, where there is no asking it."""

    layers: tuple[EngineLayer, ...] | None
    why_not: str = ""

    @property
    def telling(self) -> tuple[EngineLayer, ...]:
        """Those that compute and say in what."""
        return tuple(one for one in self.layers or () if one.computes and one.precisions)


class Read(NamedTuple):
    """What was read off an engine: ``nodes``: what each ONNX node may compute in; ``others``: layers that name none of them."""

    nodes: dict[str, tuple[str, ...]]
    others: tuple[EngineLayer, ...]


def judge(asked: str, flavour: Flavour, planned: NetworkLayers, inspected: Inspected, tf32: bool) -> PrecisionReport:
    """The network against what was asked for, and the engine, as far as it tells, against the network."""
    told = inspected.telling
    read = _by_node(told, planned.nodes)
    fallen = [node for node, found in read.nodes.items() if planned.nodes[node] in QUANTISED and planned.nodes[node] not in found]
    unread = _unread(planned, read)
    problems = [*_against_asked(asked, planned.precisions), *_tf32(inspected.layers or (), tf32)]
    if told:
        problems += _against_network(read, fallen, planned, asked)
    sure = tuple(dict.fromkeys(_likeliest(one, planned.precisions) for one in told))
    return PrecisionReport(
        asked=asked,
        typing=STRONG if flavour.strongly_typed else CONSTRAINED,
        read_from="engine" if told and not unread else "both" if told else "network",
        found=tuple(dict.fromkeys((*sure, *(planned.precisions if unread or not told else ())))),
        problems=tuple(problems),
        engine=tuple(inspected.layers or ()),
        note="; ".join(filter(None, _notes(inspected, read, fallen, unread, planned))),
    )


def _by_node(told: Sequence[EngineLayer], nodes: Mapping[str, str]) -> Read:
    found: dict[str, tuple[str, ...]] = {}
    others = []
    for one in told:
        named = [node for node in one.onnx_nodes or fused_parts(one.name) if node in nodes]
        for node in named:
            found[node] = tuple(dict.fromkeys((*found.get(node, ()), *one.precisions)))
        if not named:
            others.append(one)
    return Read(found, tuple(others))


def _unread(planned: NetworkLayers, read: Read) -> list[str]:
    """Nodes of which the engine does not tell; a layer without names may be any one of them."""
    missing = [node for node in planned.nodes if node not in read.nodes]
    return missing[len(read.others) :]


def _against_asked(asked: str, in_network: Sequence[str]) -> list[str]:
    if in_network and asked not in in_network:
        return [f"{asked} was asked for, and the network computes in {', '.join(in_network)}"]
    others = [one for one in in_network if one != asked]
    if asked == "float32" and others:
        return [f"float32 was asked for, and the network also computes in {', '.join(others)}"]
    return []


def _against_network(read: Read, fallen: Sequence[str], planned: NetworkLayers, asked: str) -> list[str]:
    problems = []
    wrong = [
        f"{node} in {found[0]} instead of {planned.nodes[node]}"
        for node, found in read.nodes.items()
        if planned.nodes[node] not in found and node not in fallen
    ]
    wrong += [
        f"{one.name} in {one.precisions[0]}"
        for one in read.others
        if planned.precisions and not set(one.precisions) & set(planned.precisions)
    ]
    if wrong:
        problems.append(
            f"{len(wrong)} layer(s) run in another precision than the network's {', '.join(planned.precisions)}: {_some(wrong)}"
        )
    quantised = [node for node in read.nodes if planned.nodes[node] in QUANTISED]
    if 2 * len(fallen) > len(quantised):
        problems.append(f"{len(fallen)} of {len(quantised)} quantised layers run in a wider type: {_some(fallen)}")
    everywhere = [*read.nodes.values(), *(one.precisions for one in read.others)]
    if asked in planned.precisions and not any(asked in found for found in everywhere):
        problems.append(f"no layer of the engine computes in {asked}")
    return problems


def _tf32(engine: Sequence[EngineLayer], allowed: bool) -> list[str]:
    """Of every layer: a kernel made of several nodes may be of any kind."""
    rounding = [one.name for one in engine if "tf32" in one.tactic.lower()]
    if not rounding or allowed:
        return []
    return [f"TF32 is off, and {len(rounding)} layer(s) use it: {_some(rounding)}"]


def _notes(
    inspected: Inspected, read: Read, fallen: Sequence[str], unread: Sequence[str], planned: NetworkLayers
) -> tuple[str, ...]:
    told = inspected.telling
    if not told:
        why_not = inspected.why_not or "the engine does not say what its layers compute in"
        return (f"read off the network, not off the engine: {why_not}",)
    unclear = [f"{one.name} in {' or '.join(one.precisions)}" for one in told if len(one.precisions) > 1]
    quantised = sum(precision in QUANTISED for precision in planned.nodes.values())
    return (
        f"the engine does not say of {len(unread)} of {len(planned.nodes)} layers what they compute in: {_some(unread)}"
        * bool(unread),
        f"{len(fallen)} of {quantised} quantised layers run in a wider type: {_some(fallen)}" * bool(fallen),
        f"of {len(unclear)} layer(s) the engine does not say which it is: {_some(unclear)}" * bool(unclear),
    )


def _likeliest(one: EngineLayer, in_network: Sequence[str]) -> str:
    return next((precision for precision in one.precisions if precision in in_network), one.precisions[0])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
