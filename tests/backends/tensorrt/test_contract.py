"""What the code asks of TensorRT exists in every flavour it claims, or the flavour table is asked first.

The code is read, not run: a name stands for one kind of TensorRT object (``NAMES``), so ``config.progress_monitor`` is an
attribute of IBuilderConfig wherever it is written. Every use is held against the listings in tests/trt_api.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgekit.backends.tensorrt.flavour import FLAVOURS, Flavour, flavour_of
from tests.trt_listing import LISTINGS, Listing

CODE = Path(__file__).parents[3] / "edgekit"
# cuda-python, edgekit's own files and what only starts the others: no object of TensorRT's is in there
OTHER_FILES = {"__init__", "build", "engines", "memory", "options", "packages", "probe"}
FILES = sorted(path for path in (CODE / "backends" / "tensorrt").glob("*.py") if path.stem not in OTHER_FILES)

NAMES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "parser": "OnnxParser",
    "error": "ParserError",
    "layer": "ILayer",
    "source": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "settings": "IRuntimeConfig",
}
# typed Any without being TensorRT's: our own subclasses, enum members, ONNX's protos, JSON
OTHERS = {"api", "logger", "monitor", "severity", "dtype", "proto", "graphs", "entry"}


class Use(NamedTuple):
    """``kind`` or ``kind.member`` in ``line``, where the flavour's fields have the values in ``guards``."""

    kind: str
    member: str
    line: int
    guards: tuple[tuple[str, bool], ...]

    def reached_by(self, flavour: Flavour) -> bool:
        return all(bool(getattr(flavour, field)) == value for field, value in self.guards)


class Reader(ast.NodeVisitor):
    """Collects uses, and what hides one from this test."""

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.hidden: list[str] = []
        self._guards: tuple[tuple[str, bool], ...] = ()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for argument in (*node.args.args, *node.args.kwonlyargs):
            typed = ast.unparse(argument.annotation) if argument.annotation else ""
            if typed == "Any" and argument.arg not in (*NAMES, *OTHERS):
                self.hidden.append(f"line {node.lineno}: {argument.arg} is Any, and not in NAMES or OTHERS")
        asserted = [_guards(statement.test) for statement in node.body if isinstance(statement, ast.Assert)]
        self._under(sum(asserted, ()), node.body)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        reached = _guards(node.test)
        self._under(reached, node.body)
        # of "a and b" the else branch knows nothing
        self._under(tuple((field, not value) for field, value in reached) if len(reached) == 1 else (), node.orelse)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        kind, member = _use(node)
        if kind:
            self.uses.append(Use(kind, member, node.lineno, self._guards))
        if isinstance(node.value, ast.Call) and _use(node.value.func)[1]:
            self.hidden.append(f"line {node.lineno}: {ast.unparse(node)} has no name between its two calls")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr") and node.args:
            first = node.args[0]
            if _is_api(first) or _use(first)[0] or (isinstance(first, ast.Name) and first.id in NAMES):
                self.hidden.append(f"line {node.lineno}: {ast.unparse(node)} cannot be held against a listing")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._named(node.targets[0], node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._named(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._named(node.target, node.value)
        self.generic_visit(node)

    def _named(self, target: ast.expr, value: ast.expr | None) -> None:
        """What a call gives must have the name that stands for its kind."""
        if isinstance(value, ast.Call) and isinstance(target, ast.Name):
            kind, member = _use(value.func)
            having = [listing for listing in LISTINGS if listing.has(kind, member)]
            kinds = {listing.returned(kind, member) if member else kind for listing in having} - {""}
            kinds &= {name for listing in LISTINGS for name in listing.classes} - {"ILogger", "IHostMemory"}
            if kinds and NAMES.get(target.id) not in kinds:
                self.hidden.append(f"line {target.lineno}: {target.id} is {', '.join(kinds)}, which NAMES does not say")

    def _under(self, guards: tuple[tuple[str, bool], ...], body: list[ast.stmt]) -> None:
        before, self._guards = self._guards, self._guards + guards
        for statement in body:
            self.visit(statement)
        self._guards = before


def _is_api(node: ast.AST) -> bool:
    """``api``, or ``trt.api``, or a parameter called so."""
    return (isinstance(node, ast.Name) and node.id == "api") or (isinstance(node, ast.Attribute) and node.attr == "api")


def _use(node: ast.AST) -> tuple[str, str]:
    """(class or enum, member) of ``api.X``, ``api.X.Y`` or ``config.x``; empty for anything else."""
    if not isinstance(node, ast.Attribute):
        return "", ""
    if _is_api(node.value):
        return node.attr, ""
    if isinstance(node.value, ast.Attribute) and _is_api(node.value.value):
        return node.value.attr, node.attr
    if isinstance(node.value, ast.Name) and node.value.id in NAMES:
        return NAMES[node.value.id], node.attr
    return "", ""


def _guards(test: ast.expr) -> tuple[tuple[str, bool], ...]:
    """``flavour.x``, ``not flavour.x`` and these joined by ``and``."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return sum((_guards(value) for value in test.values), ())
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _guards(test.operand)
        return ((inner[0][0], not inner[0][1]),) if len(inner) == 1 else ()
    if isinstance(test, ast.Attribute) and ast.unparse(test.value).split(".")[-1] == "flavour":
        return ((test.attr, True),)
    return ()


def read(code: str) -> Reader:
    reader = Reader()
    reader.visit(ast.parse(code))
    return reader


def missing(code: str, listings: tuple[Listing, ...] = LISTINGS) -> Iterator[str]:
    """What ``code`` asks for that a flavour it reaches does not have, and what cannot be told."""
    reader = read(code)
    yield from reader.hidden
    for use in reader.uses:
        for listing in listings:
            if use.kind == "__version__" or not use.reached_by(listing.flavour):
                continue
            if not listing.has(use.kind, use.member):
                yield f"line {use.line}: {listing.module} {listing.version} has no {use.kind}{use.member and '.'}{use.member}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_flavour_has_what_the_code_asks_it_for(file: Path) -> None:
    assert list(missing(file.read_text(encoding="utf-8"))) == []


def test_the_code_is_really_seen() -> None:
    uses = {(use.kind, use.member) for file in FILES for use in read(file.read_text(encoding="utf-8")).uses}
    assert {
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "progress_monitor"),
        ("IProgressMonitor", "__init__"),
        ("ILogger", ""),
        ("ParserError", "node_operator"),
        ("ITensor", "dtype"),
        ("EngineInspector", "get_engine_information"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "get_tensor_location"),
    } <= uses
    assert len(uses) > 50


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("config.set_flag(api.BuilderFlag.FP16)", ["tensorrt 11.4.0 has no BuilderFlag.FP16", "tensorrt_rtx 1.7.1 has no"]),
        ("if trt.flavour.precision_flags:\n    config.set_flag(trt.api.BuilderFlag.FP16)", []),
        ("if not flavour.precision_flags:\n    config.set_flag(api.BuilderFlag.FP16)", ["11.4.0 has no", "1.7.1 has no"]),
        ("if flavour.precision_flags:\n    pass\nelse:\n    layer.precision = 1", ["11.4.0 has no ILayer.precision", "1.7.1"]),
        ("config.progress_monitor = 1", ["8.6.0 has no IBuilderConfig.progress_monitor"]),
        ("if flavour.progress and flavour.needs_gpu:\n    config.progress_monitor = 1", []),
        ("if flavour.progress or flavour.needs_gpu:\n    config.progress_monitor = 1", ["8.6.0 has no"]),
        ("def f(config: Any) -> None:\n    assert flavour.progress\n    config.progress_monitor = 1", []),
        ("config.max_workspace_size = 1", ["10.16.1 has no", "11.4.0 has no", "1.7.1 has no"]),
        ("builder.build_engine(network, config)", ["10.16.1 has no", "11.4.0 has no", "1.7.1 has no"]),
        ("builder.frobnicate()", ["8.6.0 has no Builder.frobnicate", "10.16.1", "11.4.0", "1.7.1"]),
        ("api.Frobnicator()", ["8.6.0 has no Frobnicator", "10.16.1", "11.4.0", "1.7.1"]),
        ("getattr(api.BuilderFlag, name)", ["cannot be held against a listing"]),
        ("hasattr(config, 'progress_monitor')", ["cannot be held against a listing"]),
        ("def f(thing: Any) -> None: ...", ["thing is Any, and not in NAMES"]),
        ("made = builder.create_builder_config()", ["made is IBuilderConfig, which NAMES does not say"]),
        ("made: Any = builder.create_builder_config()", ["made is IBuilderConfig, which NAMES does not say"]),
        ("if (made := builder.create_builder_config()): pass", ["made is IBuilderConfig, which NAMES does not say"]),
        (
            "def f(engine: Any) -> None:\n    settings = engine.create_runtime_config()",
            ["8.6.0 has no ICudaEngine.create_runtime"],
        ),
        ("builder.create_builder_config().flags", ["has no name between its two calls"]),
    ],
)
def test_code_that_a_flavour_cannot_run_is_found(code: str, expected: list[str]) -> None:
    reached = list(missing(code))
    assert len(reached) == len(expected), reached
    for line, part in zip(reached, expected, strict=True):
        assert part in line


def test_the_table_says_of_every_flavour_what_its_listing_says() -> None:
    """What decides a guard is itself read off the listings."""
    facts: Mapping[str, Any] = {
        "explicit_batch": ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        "names_nodes": ("ParserError", "node_name"),
        "progress": ("IBuilderConfig", "progress_monitor"),
        "lists_gpus": ("ComputeCapability", "SM120"),
        "compiles_late": ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        "int64": ("DataType", "INT64"),
    }
    for listing in LISTINGS:
        for field, (kind, member) in facts.items():
            assert getattr(listing.flavour, field) == listing.has(kind, member), (listing.version, field)
        typed = listing.has("ILayer", "precision")
        assert listing.flavour.precision_flags == (typed and not listing.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"))
        assert listing.flavour.strong_typing_flag == (typed and listing.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"))
    assert [listing.flavour for listing in LISTINGS] == list(FLAVOURS)


@pytest.mark.parametrize(
    ("name", "version", "major"),
    [("tensorrt", "8.6.1.post1", 8), ("tensorrt", "10.3.0", 10), ("tensorrt", "11.4.0.1", 11), ("tensorrt-rtx", "1.4.0.76", 1)],
)
def test_a_release_belongs_to_the_row_of_its_major_version(name: str, version: str, major: int) -> None:
    reached = flavour_of(name, version)
    assert reached is not None
    assert reached.first[0] == major


@pytest.mark.parametrize("version", ["8.5.3", "7.2", "9.0.1", "12.0.0", "what", ""])
def test_a_release_that_nobody_has_looked_at_is_unknown(version: str) -> None:
    assert flavour_of("tensorrt", version) is None
