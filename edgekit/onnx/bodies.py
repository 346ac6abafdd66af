"""The nodes of an ONNX file's graph and functions, read from protobuf's wire format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from edgekit.onnx.wire import decoded, fields, last

# the numbers of the fields that are read here
MODEL_GRAPH: Final = 7
MODEL_FUNCTION: Final = 25
GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_FUNCTION_NAME, _FUNCTION_OUTPUT, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 5, 7, 10
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 3, 4, 7
WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")


class Node(NamedTuple):
    """A node's operator with its domain, the names of its inputs and outputs, and its own name."""

    operator: tuple[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""

    @property
    def key(self) -> str:
        """Its name, or its first output where it has none."""
        return self.name or next(filter(None, self.outputs), "")


class Body(NamedTuple):
    """The nodes of the graph or of a function, by the names of their outputs, and the names of its own outputs."""

    producers: Mapping[str, Node]
    outputs: tuple[str, ...]


def bodies(content: bytes) -> tuple[Body, dict[tuple[str, str], Body]]:
    """The main graph, and the functions by their domain and name; raises ValueError for what is no such message."""
    graph: Body = Body({}, ())
    functions: dict[tuple[str, str], Body] = {}
    for number, value in fields(memoryview(content)):
        if isinstance(value, int):
            continue
        if number == MODEL_GRAPH:
            texts, nodes = _members(value, GRAPH_NODE, (_GRAPH_OUTPUT,))
            outputs = tuple(value_name(output) for output in texts[_GRAPH_OUTPUT])
            graph = Body({name: node for node in nodes for name in node.outputs}, outputs)
        elif number == MODEL_FUNCTION:
            texts, nodes = _members(value, _FUNCTION_NODE, (_FUNCTION_NAME, _FUNCTION_OUTPUT, _FUNCTION_DOMAIN))
            identity = (last(texts[_FUNCTION_DOMAIN]), last(texts[_FUNCTION_NAME]))
            outputs = tuple(map(decoded, texts[_FUNCTION_OUTPUT]))
            functions[identity] = Body({name: node for node in nodes for name in node.outputs}, outputs)
    return graph, functions


def has_functions(content: bytes) -> bool:
    """Whether the file has functions of its own; raises ValueError for a malformed message."""
    return any(number == MODEL_FUNCTION for number, _ in fields(memoryview(content)))


def inlined_nodes(content: bytes) -> int:
    """The number of nodes of the main graph once every call of a function of the file is replaced by the function's nodes.

    Functions that call functions can double it with every line. Raises ValueError for a function that calls itself, and for a
    malformed message.
    """
    graph, functions = bodies(content)
    sizes: dict[tuple[str, str], int] = {}

    def size(body: Body, callers: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in dict.fromkeys(body.producers.values()):
            called = functions.get(node.operator)
            if called is None:
                total += 1
            elif node.operator in callers:
                raise ValueError(f"function {node.operator[1]} calls itself")
            else:
                if node.operator not in sizes:
                    sizes[node.operator] = size(called, callers | {node.operator})
                total += sizes[node.operator]
        return total

    return size(graph, frozenset())


def check_one_graph(content: bytes) -> None:
    """Raise ValueError for a model whose graph stands there in pieces: Protocol Buffers merge them, and readers here do not."""
    if sum(number == MODEL_GRAPH for number, _ in fields(memoryview(content))) > 1:
        raise ValueError("its graph is in several pieces")


def alive(body: Body) -> list[Node]:
    """The nodes that the outputs depend on; all of them where one of these has a branch or a loop, which may read any value."""
    nodes = list(dict.fromkeys(body.producers.values()))
    waiting, needed = list(body.outputs), set[Node]()
    while waiting:
        node = body.producers.get(waiting.pop())
        if node is not None and node not in needed:
            if node.operator[1] in WITH_GRAPHS:
                return nodes
            needed.add(node)
            waiting += node.inputs
    return [node for node in nodes if node in needed]


def _members(message: memoryview, node_field: int, text_fields: Sequence[int]) -> tuple[dict[int, list[memoryview]], list[Node]]:
    """The fields of a graph or function that are named, and its nodes."""
    texts: dict[int, list[memoryview]] = {number: [] for number in text_fields}
    nodes = []
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if number in texts:
            texts[number].append(value)
        elif number == node_field:
            nodes.append(node_of(value))
    return texts, nodes


def node_of(message: memoryview) -> Node:
    """What a NodeProto says of itself."""
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [], _NODE_OPERATOR: [], _NODE_DOMAIN: []}
    for number, value in fields(message):
        if number in texts:
            texts[number].append(decoded(value))
    operator = ("".join(texts[_NODE_DOMAIN][-1:]), "".join(texts[_NODE_OPERATOR][-1:]))
    return Node(operator, tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]), "".join(texts[_NODE_NAME][-1:]))


def value_name(value_info: memoryview) -> str:
    """The name of a ValueInfoProto."""
    return last([value for number, value in fields(value_info) if number == 1 and isinstance(value, memoryview)])
