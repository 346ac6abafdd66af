"""Setups: the text form and back, refusals, and the labels that tell setups apart in a report."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.backends import checked, table
from edgekit.backends.contract import Options
from edgekit.errors import UsageError
from edgekit.latency.loop import Timing
from edgekit.setups import EVERY, Absence, Setup, as_setups, filled, labels
from edgekit.tensors import LARGEST_BATCH

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("variant", "threads", "batches"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
SETUPS = st.builds(
    Setup,
    backend=st.sampled_from(["ort-cpu", "tensorrt", "a.b"]),
    variant=st.sampled_from(["", "float16"]),
    threads=st.none() | st.integers(1, 1024),
    batches=st.lists(st.integers(1, LARGEST_BATCH), max_size=3, unique=True).map(tuple),
    options=st.dictionaries(NAMES, st.just(True) | TEXTS, max_size=3),
)


@given(SETUPS)
def test_the_text_form_and_json_give_the_same_setup_back(setup: Setup) -> None:
    assert Setup.parse(str(setup)) == setup
    assert hash(Setup.parse(str(setup))) == hash(setup)
    assert msgspec.json.decode(msgspec.json.encode(setup), type=Setup) == setup


def test_the_text_form_reads_as_the_command_line_writes() -> None:
    text = "tensorrt variant=int8 threads=4 batches=1,8 cuda-graph engine='my net.plan'"
    setup = Setup("tensorrt", "int8", 4, (1, 8), {"cuda_graph": True, "engine": "my net.plan"})
    assert Setup.parse(text) == setup
    assert str(setup) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a backend has no name"),
        ("ort-cpu threads=0", "threads takes a whole number from 1 to 1024"),
        ("ort-cpu threads", "threads takes a whole number"),
        ("ort-cpu threads=99999", "threads takes a whole number"),
        ("ort-cpu threads=٣", "threads takes a whole number"),
        ("ort-cpu batches=1,٣", "batches takes whole numbers"),
        ("ort-cpu variant=", "variant takes a name"),
        ("ort-cpu batches=0", "batches takes whole numbers from 1 to 65536"),
        ("ort-cpu batches=x", "batches takes whole numbers"),
        ("ort-cpu threads=1 threads=2", "'threads=2' is not an option, or repeats one"),
        ("ort-cpu =4", "'=4' is not an option, or repeats one"),
        ("ort-cpu 'open", "cannot be read: No closing quotation"),
    ],
)
def test_a_text_that_is_no_setup_is_refused_with_the_word_at_fault(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Setup.parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nosuch", "no backend 'nosuch'; use one of torch"),
        ("ort-cpu cuda-graph", "ort-cpu has no option 'cuda-graph'; its options: optimisation, variant, threads, batches"),
        (
            "tensorrt cuda-grph",
            "tensorrt has no option 'cuda-grph'; its options: cuda-graph, flavour, engine, variant, threads, batches",
        ),
        ("tensorrt cuda-graph=perhaps", "tensorrt: cuda-graph: "),
        ("tensorrt flavour=foo", "tensorrt: no flavour 'foo'; use one of tensorrt, tensorrt-rtx"),
    ],
)
def test_options_are_checked_against_the_backends_own(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        checked(Setup.parse(text))


def test_options_get_the_types_of_their_backend_and_defaults_are_left_out() -> None:
    assert checked(Setup.parse("tensorrt cuda-graph=true")).options == {"cuda_graph": True}
    assert checked(Setup.parse("tensorrt cuda-graph=false")).options == {}
    assert checked(Setup.parse("tensorrt cuda-graph=on")).options == {"cuda_graph": True}
    assert checked(Setup.parse("tensorrt cuda-graph=off")).options == {}


def test_a_value_outside_of_the_choices_is_refused_with_the_choices() -> None:
    class Choosing(Options, frozen=True):
        mode: Literal["fast", "small"] = "fast"

    assert checked(Setup.parse("ort-cpu mode=small"), Choosing).options == {"mode": "small"}
    with pytest.raises(UsageError, match="ort-cpu: no mode 'big'; use one of fast, small"):
        checked(Setup.parse("ort-cpu mode=big"), Choosing)


ROWS = [(name, row.options) for name, row in table().items()] + [
    (name, row.builder.options) for name, row in table().items() if row.builder
]
UNUSUAL: dict[str, Any] = {
    "optimisation": "basic",
    "cuda_graph": True,
    "flavour": "tensorrt-rtx",
    "engine": "my net.plan",
    "source": "my.nets:net",
    "profiles": ["1:8:32", "64:64:64"],
    "workspace_mib": 64,
    "level": 5,
    "hardware_compatible": True,
    "version_compatible": True,
    "tf32": True,
    "precision": "bfloat16",
}


@pytest.mark.parametrize(("name", "kind"), ROWS)
def test_every_option_of_every_backend_has_a_way_in_as_text(name: str, kind: type[Options]) -> None:
    setup = checked(Setup(name, options={field: UNUSUAL[field] for field in kind.__struct_fields__}), kind)
    assert setup.options == {field: UNUSUAL[field] for field in kind.__struct_fields__}
    assert checked(Setup.parse(str(setup)), kind) == setup
    assert msgspec.json.decode(msgspec.json.encode(setup), type=Setup) == setup


@pytest.mark.parametrize(
    "numbers", [{"threads": 0}, {"threads": -1}, {"threads": 1025}, {"batches": (0,)}, {"batches": (1, 1 << 20)}]
)
def test_numbers_out_of_range_are_refused_in_python_and_json_too(numbers: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"ort-cpu: (threads|batches) takes"):
        Setup("ort-cpu", **numbers)
    with pytest.raises((UsageError, msgspec.ValidationError)):
        msgspec.json.decode(msgspec.json.encode({"backend": "ort-cpu", **numbers}), type=Setup)


@pytest.mark.parametrize(
    "timing", [{"batches": ()}, {"batches": (0,)}, {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": float("nan")}]
)
def test_what_cannot_be_timed_is_refused(timing: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Timing(**timing)


def test_a_setup_several_or_none_may_be_passed() -> None:
    setup, text = Setup("ort-cpu", threads=1), "ort-cpu threads=1"
    assert as_setups(text) == as_setups(setup) == as_setups([setup]) == as_setups(iter([text])) == (setup,)
    assert as_setups(()) == as_setups(iter(())) == (Setup(EVERY),)


def test_labels_are_the_shortest_that_tell_setups_apart() -> None:
    single, double = Setup("ort-cpu", threads=1), Setup("ort-cpu", threads=2)
    assert labels([single, Setup("torch", threads=1)]) == ("ort-cpu", "torch")
    assert labels([single, double, Setup("torch", threads=1)]) == ("ort-cpu threads=1", "ort-cpu threads=2", "torch")
    graph = Setup("tensorrt", options={"cuda_graph": True})
    assert labels([Setup("tensorrt"), graph]) == ("tensorrt", "tensorrt cuda-graph")


def test_a_common_variant_and_threads_fill_in_what_a_setup_leaves_open() -> None:
    assert filled(Setup("a"), "float16", 2) == Setup("a", "float16", 2)
    assert filled(Setup("a", "int8", 1), "float16", 2) == Setup("a", "int8", 1)


def test_an_absence_reads_as_a_sentence() -> None:
    assert str(Absence("no driver", "install one")) == "no driver; install one"
    assert str(Absence("no driver", "")) == "no driver"
