"""ONNX Runtime's profile: what each node of its optimised graph takes on the CPU.

On a GPU the same profile holds the time in which the host launches a kernel, not the kernel's: it is asked for on the CPU alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from edgekit.backends.contract import LayerTime
from edgekit.backends.onnxruntime.session import PROVIDERS, OrtSession, new_session, session_options
from edgekit.onnx.untrusted import read_for_session
from edgekit.tensors import Feed

WARM_UP = 3
_ENDING = "_kernel_time"
_CALL, _GRAPH = "model_run", "SequentialExecutor::Execute"
# what optimisations put around the name of a node, or of what it puts out
_ADDED = re.compile(r"^fused |(_bn|_nchwc|_token_\d+)+$")


class OrtCpuSession(OrtSession):
    """A session on the CPU, which can tell its nodes' times."""

    def layer_times(self, feed: Feed, count: int) -> tuple[LayerTime, ...]:
        """The layer times of a second session, opened for profiling: profiling slows every call and cannot be switched off."""
        options = session_options(self._setup)
        with TemporaryDirectory() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = new_session(read_for_session(self._path, self._sha256), options, [(PROVIDERS["ort-cpu"], {})])
            for _ in range(WARM_UP + count):
                session.run(self._names, dict(feed))
            profile = Path(session.end_profiling()).read_bytes()
        return node_times(msgspec.json.decode(profile), WARM_UP)


def node_times(events: list[dict[str, Any]], skipped: int) -> tuple[LayerTime, ...]:
    """The main graph's nodes, without the first ``skipped`` calls; what a body takes is its If's or Loop's."""
    names: dict[str, str] = {}
    calls: list[dict[str, float]] = []
    for ran in _calls(events):
        calls.append({})
        for event in ran:
            name = event["name"][: -len(_ENDING)]
            names.setdefault(name, str(event["args"].get("op_name", "")))
            calls[-1][name] = calls[-1].get(name, 0.0) + event["dur"] / 1e3  # nothing keeps two nodes from sharing a name
    counted = calls[skipped:]
    return tuple(
        LayerTime(name, operator, (_ADDED.sub("", name),), tuple(call.get(name, 0.0) for call in counted))
        for name, operator in names.items()
    )


def _calls(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The events of each call's main graph. They are listed as they end, and a graph, a body too, ends after its nodes."""
    nodes: list[dict[str, Any]] = []
    graph: list[dict[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_ENDING):
            nodes.append(event)
        elif event["name"] == _GRAPH:
            first = len(nodes)
            while first and nodes[first - 1]["ts"] >= event["ts"]:
                first -= 1
            graph = nodes[first:]
            del nodes[first:]
        elif event["name"] == _CALL:
            yield graph or nodes  # the graph that ended last is the whole
            nodes, graph = [], []
