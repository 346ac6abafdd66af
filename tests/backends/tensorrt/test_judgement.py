"""Whether an engine computes in what was asked for, node by node; every pass has a fail beside it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from edgekit.backends.tensorrt.flavour import FLAVOURS
from edgekit.backends.tensorrt.judgement import Inspected, judge
from edgekit.backends.tensorrt.precision import NetworkLayers
from edgekit.bundle.manifest import Conversion
from edgekit.reports.build import EngineLayer, LayerCount, PrecisionReport
from edgekit.reports.quantize import KeptNode

TEN = next(flavour for flavour in FLAVOURS if flavour.first == (10, 0))


def layer(
    precisions: str, *nodes: str, name: str = "kernel", computes: bool = True, tactic: str = "", kind: str = "gemm"
) -> EngineLayer:
    """``"int8 float32"``: it may be either."""
    return EngineLayer(name, computes, tuple(precisions.split()), tactic, kind, nodes)


def network(**nodes: str) -> NetworkLayers:
    counts = Counter(nodes.values())
    return NetworkLayers(tuple(LayerCount("CONVOLUTION", kind, count) for kind, count in counts.items()), nodes)


def judged(asked: str, nodes: dict[str, str], *layers: EngineLayer, tf32: bool = False) -> PrecisionReport:
    return judge(asked, TEN, network(**nodes), Inspected(layers), tf32)


def test_an_engine_that_tells_of_every_node_is_what_the_report_is_read_from() -> None:
    report = judged("float16", {"a": "float16", "b": "float32"}, layer("float16", "a", "relu"), layer("float32", "b"))
    assert (report.read_from, report.found, report.problems, report.note) == ("engine", ("float16", "float32"), (), "")


def test_two_nodes_that_changed_places_are_found_although_the_types_are_the_networks() -> None:
    report = judged("float16", {"a": "float16", "b": "float32"}, layer("float32", "a"), layer("float16", "b"))
    assert report.problems == (
        "2 layer(s) run in another precision than the network's float16, float32: a in float32 instead of float16, "
        "b in float16 instead of float32",
    )


def test_nodes_of_which_the_engine_says_nothing_are_named_and_not_taken_for_read() -> None:
    nodes = dict.fromkeys("abcde", "float16")
    silent = layer("", "b")
    report = judged("float16", nodes, layer("float16", "a"), silent)
    assert (report.read_from, report.problems) == ("both", ())
    assert report.note == "the engine does not say of 4 of 5 layers what they compute in: b, c, d, ..."
    assert judged("float16", nodes, *(layer("float16", node) for node in nodes)).read_from == "engine"
    assert judged("float16", nodes, silent).read_from == "network"


def test_an_engine_that_cannot_be_asked_is_not_read() -> None:
    report = judge("float16", TEN, network(a="float16"), Inspected(None, "no GPU"), False)
    assert (report.read_from, report.found) == ("network", ("float16",))
    assert report.note == "read off the network, not off the engine: no GPU"
    assert judged("float16", {"a": "float16"}).note.endswith("the engine does not say what its layers compute in")


def test_layers_without_metadata_are_known_by_what_was_fused_and_others_stand_for_no_node() -> None:
    nodes = {"a": "float16", "b": "float16"}
    fused = layer("float16", name="a + PWN(relu)")
    assert judged("float16", nodes, fused, layer("float16", name="b + PWN(relu)")).read_from == "engine"
    assert judged("float16", nodes, fused, layer("float16", name="whatever")).read_from == "both"
    assert judged("float16", nodes, layer("float32", name="a + relu")).problems[0].endswith("a in float32 instead of float16")
    assert judged("float16", nodes, layer("int8", name="whatever")).problems[0].endswith("float16: whatever in int8")


def test_a_node_that_runs_as_several_layers_must_fit_in_each_but_for_what_prepares_it() -> None:
    """Of two profiles one may be right and the other not; a generated kernel may add up in a wider type."""
    helper = layer("float32", "a", kind="kgen")
    assert judged("float32", {"a": "float16"}, helper, layer("float16", "a")).problems == (
        "float32 was asked for, and the network computes in float16",
    )
    assert judged("float16", {"a": "float16"}, helper, layer("float16", "a")).problems == ()
    assert judged("float16", {"a": "float16"}, helper).problems
    (problem,) = judged("float16", {"a": "float16"}, layer("float32", "a", name="a [profile 1]"), layer("float16", "a")).problems
    assert problem.endswith("a in float32 instead of float16")
    assert judged("int8", {"a": "int8"}, layer("float32", "a"), layer("int8", "a")).problems


def test_what_is_missing_is_judged_only_where_everything_was_told() -> None:
    nodes = {"a": "float32", **dict.fromkeys("bcd", "float16")}
    opaque = layer("", "b", "c", "d", name="{ForeignNode[b...d]}")
    assert judged("float16", nodes, layer("float32", "a"), opaque).problems == ()
    nodes = dict.fromkeys((f"n{place}" for place in range(21)), "int8")
    assert judged("int8", nodes, layer("float32", "n0")).problems == ()
    assert judged("int8", nodes, *(layer("float32", node) for node in list(nodes)[:11])).problems


def test_a_quantised_file_is_stored_in_floats_and_computes_in_integers() -> None:
    """What a bundle says is what most of its numbers are stored in."""
    report = judged("float32", {"a": "int8", "b": "float32"}, layer("int8", "a"), layer("float32", "b"))
    assert (report.asked, report.found, report.problems) == ("float32, quantised", ("int8", "float32"), ())
    assert judged("float32", {"a": "int8"}, layer("float32", "a")).problems == ("1 of 1 quantised layers run in a wider type: a",)
    mixed = judged("float32", {"a": "float32", "b": "float16"}, layer("float32", "a"), layer("float16", "b"))
    assert (mixed.found, mixed.problems) == (("float32", "float16"), ())


@pytest.mark.parametrize(("fallen", "passes"), [(0, True), (1, True), (2, True), (3, False), (5, False)])
def test_quantised_layers_that_run_wider_are_named_and_more_than_half_of_them_fail(fallen: int, passes: bool) -> None:
    """TensorRT may leave a small product in floats; an int8 engine that is mostly floats is none."""
    nodes = dict.fromkeys("abcde", "int8")
    layers = [layer("float32" if place < fallen else "int8", node) for place, node in enumerate(nodes)]
    report = judged("int8", nodes, *layers)
    assert (report.problems == ()) is passes
    sentence = f"{fallen} of 5 quantised layers run in a wider type: a"
    assert report.note.startswith(sentence) is bool(fallen)
    assert passes or report.problems[0].startswith(sentence)


def test_an_int8_file_with_a_float_layer_of_its_own_passes_only_if_the_int8_layers_are_int8() -> None:
    nodes = {**dict.fromkeys("abcd", "int8"), "e": "float32"}
    good = [*(layer("int8", node) for node in "abcd"), layer("float32", "e")]
    assert judged("int8", nodes, *good).problems == ()
    swapped = [*(layer("float32", node) for node in "abcd"), layer("int8", "e")]
    problems = judged("int8", nodes, *swapped).problems
    assert problems[0].endswith("e in int8 instead of float32")
    assert problems[1].startswith("4 of 4 quantised layers run in a wider type")


def test_a_float16_engine_that_is_float32_fails() -> None:
    problems = judged("float16", {"a": "float16", "b": "float16"}, layer("float32", "a"), layer("float32", "b")).problems
    assert len(problems) == 2
    assert problems[1] == "no layer of the engine computes in float16"


def test_a_layer_that_may_be_either_passes_with_a_note() -> None:
    report = judged("float16", {"a": "float16"}, layer("float32 float16", "a"))
    assert (report.problems, report.found) == ((), ("float16",))
    assert report.note == "of 1 layer(s) the engine does not say which it is: kernel in float32 or float16"
    assert judged("float16", {"a": "float16"}, layer("float32 int8", "a")).problems


@pytest.mark.parametrize("computes", [True, False])
def test_tf32_is_seen_in_any_layers_kernel(computes: bool) -> None:
    rounds: dict[str, Any] = {"computes": computes, "tactic": "sm80_xmma_fprop_implicit_gemm_f32f32_TF32f32_f32_nhwckrsc"}
    layers = layer("float32", "a"), layer("float32", "relu", name="fused", **rounds)
    assert judged("float32", {"a": "float32"}, *layers).problems == ("TF32 is off, and 1 layer(s) use it: fused",)
    assert judged("float32", {"a": "float32"}, *layers, tf32=True).problems == ()


def test_what_the_network_is_not_is_said_whatever_the_engine_is() -> None:
    assert judged("float16", {"a": "float32"}, layer("float32", "a")).problems == (
        "float16 was asked for, and the network computes in float32",
    )
    assert judge("float32", TEN, NetworkLayers((LayerCount("SHAPE", "int64", 1),), {}), Inspected(()), False).problems == ()


def converted(asked: str, nodes: dict[str, str], count: int, *layers: EngineLayer, kept: tuple[str, ...] = ()) -> PrecisionReport:
    """Judged as a variant of which the manifest says so many converted layers, and ``kept``."""
    conversion = Conversion(f"{asked}.npz", count, tuple(KeptNode(node, "Conv", "", "named") for node in kept))
    return judge(asked, TEN, network(**nodes), Inspected(layers), False, conversion)


def test_a_variant_has_as_many_int8_layers_as_its_manifest_counts() -> None:
    nodes = {**dict.fromkeys("abcd", "int8"), "e": "float32"}
    assert converted("int8", nodes, 4, kept=("e",)).problems == ()
    assert converted("int8", nodes, 3).problems == ()  # TensorRT may quantise what the file calls something else
    assert converted("int8", nodes, 5).problems == ("the manifest counts 5 layers in int8, and the network has 4: not e",)
    nodes = dict.fromkeys("abcde", "float32")
    assert converted("int8", nodes, 5).problems == (
        "int8 was asked for, and the network computes in float32",
        "the manifest counts 5 layers in int8, and the network has 0: not a, b, c, ...",
    )


def test_one_int8_layer_of_a_variant_that_runs_wider_is_enough_to_fail() -> None:
    """In a file from elsewhere a few may, because nobody said how many there should be."""
    nodes = dict.fromkeys("abcde", "int8")
    layers = [layer("float32" if node == "a" else "int8", node) for node in nodes]
    assert judged("int8", nodes, *layers).problems == ()
    (problem,) = converted("int8", nodes, 5, *layers).problems
    assert problem.startswith("1 of 5 int8 layers run in a wider type: a, which edgekit quantize --keep would leave in float")
    assert converted("int8", nodes, 4, *layers).problems == ()
    silent = [layer("int8", node) for node in "bcde"]  # the engine says nothing of a
    assert converted("int8", nodes, 5, *silent).problems == ()


def test_only_kept_nodes_of_a_float16_variant_are_float32() -> None:
    nodes = {"a": "float16", "b": "float32", "node_of_c": "float32"}
    assert converted("float16", nodes, 1, kept=("b", "c")).problems == ()  # a nameless node is known by what it puts out
    assert converted("float16", nodes, 1, kept=("c",)).problems == (
        "1 layer(s) are float32 that the manifest does not list among the kept: b",
    )
    assert judged("float16", nodes).problems == ()


def test_a_float32_layer_of_the_engine_that_is_no_kept_node_is_found() -> None:
    nodes = {"a": "float16", "b": "float32"}
    known = layer("float16", "a"), layer("float32", "b")
    stray = layer("float32", name="stray", kind="conv")
    (problem,) = converted("float16", nodes, 1, *known, stray, kept=("b",)).problems
    assert problem == "1 layer(s) are float32 that the manifest does not list among the kept: stray"
    assert converted("float16", nodes, 1, known[0], stray, kept=("b",)).problems == ()  # it may be b
    helper = layer("float32", name="sums up", kind="kgen")
    assert converted("float16", nodes, 1, *known, helper, kept=("b",)).problems == ()


def test_layers_are_counted_by_precision_in_the_network_and_as_far_as_it_tells_in_the_engine() -> None:
    nodes = {**dict.fromkeys("abc", "int8"), "d": "float16"}
    report = judged("int8", nodes, layer("int8", "a", "b"), layer("float16", "d"), layer("", "c"))
    assert (report.in_network, report.in_engine, report.untold) == ({"int8": 3, "float16": 1}, {"int8": 1, "float16": 1}, 1)
