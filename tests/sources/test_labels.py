"""Files of labels as people keep them: lines, numbered lines, JSON; their order is taken or refused, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.sources.labels import label_list, read_labels

NAMES = ("cat", "dog", "tench, Tinca tinca")


def written(folder: Path, text: str, name: str = "labels.txt") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\ntench, Tinca tinca\n",
        "0: cat\n1: dog\n2: tench, Tinca tinca\n",
        "0 cat\n1 dog\n2 tench, Tinca tinca\n",
        "2\ttench, Tinca tinca\n0\tcat\n1\tdog\n",
        "0,cat\n1,dog\n2,tench, Tinca tinca",
        "id,name\n0,cat\n1,dog\n2,tench, Tinca tinca",
        'index,label\n0,cat\n1,dog\n2,"tench, Tinca tinca"',
        "name,id\ncat,0\ndog,1\ntench, Tinca tinca,2",
        "names:\n  0: cat\n  1: dog\n  2: tench, Tinca tinca",
        json.dumps(NAMES),
        json.dumps(dict(enumerate(NAMES))),
        json.dumps({"dog": 1, "cat": 0, "tench, Tinca tinca": 2}),
        json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "tench, Tinca tinca"]}),
        json.dumps({"model_type": "vit", "id2label": dict(enumerate(NAMES)), "label2id": {}}),
    ],
)
def test_the_order_of_the_output_is_read(text: str, tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, text)) == NAMES


@pytest.mark.parametrize("text", ["4:3\n16:9", "7 up\n8 up", "a\n", "3: x", "crane\ncrane"])
def test_labels_that_only_look_numbered_stay_themselves(text: str, tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, text)) == tuple(text.strip().split("\n"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a\n\nb", "line 2 is empty"),
        ("1: cat\n2: dog", r"numbers its labels from 1 \(cat\), and the first output is 0"),
        ("id,name\n1,cat\n2,dog", "numbers its labels from 1"),
        ('{"cat": 1, "dog": 2}', "numbers its labels from 1"),
        ('{"0": "cat", "2": "dog"}', "with gaps or twice"),
        ('{"cat": 0, "dog": 0}', "with gaps or twice"),
        ('{"cat": "dog"}', "neither a list of names nor a mapping"),
        ("[1, 2]", "neither a list of names nor a mapping"),
        ("[]", "neither a list of names nor a mapping"),
        ("{", "neither a list of names nor a mapping"),
        ("item {\n  id: 1\n  name: 'cat'\n}", "a label map of protocol buffers"),
    ],
)
def test_an_order_that_is_not_plain_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=fault):
        read_labels(written(tmp_path, text))


def test_labels_are_told_by_line_ends_and_by_nothing_else(tmp_path: Path) -> None:
    for text in ("a\u2028b\nc d\x0c\x85e\n", "a\u2028b\r\nc d\x0c\x85e\r\n\r\n", "a\u2028b\rc d\x0c\x85e"):
        assert read_labels(written(tmp_path, text)) == ("a\u2028b", "c d\x0c\x85e")
    assert label_list("a\u2028b\nc") == ("a\u2028b", "c")


def test_metadata_may_map_names_to_numbers() -> None:
    assert label_list("{'dog': 1, 'cat': 0}") == ("cat", "dog")
    assert label_list("{'dog': 2, 'cat': 1}") == ()
