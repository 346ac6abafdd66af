"""Where a Python source can be changed by one small fault, and the source with that fault.

A site is a comparison, a constant, a condition, an argument or a branch. Annotations, docstrings, ``__all__``, imports for type
checkers and texts for readers are no sites: a change there is not for tests to notice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip


class Span(NamedTuple):
    """Offsets in the source's UTF-8 bytes."""

    start: int
    end: int


class Site(NamedTuple):
    """One possible fault; ``number`` tells sites of one kind in one function apart, in the order of the source."""

    file: str
    function: str
    kind: str
    number: int
    line: int
    before: str
    after: str
    span: Span

    @property
    def key(self) -> str:
        """The site's name, which does not change where lines are added above its function."""
        return f"{self.file}::{self.function}::{self.kind}::{self.number}::{self.before}"


def mutated(source: str, site: Site) -> str:
    """``source`` with the fault."""
    content = source.encode()
    return (content[: site.span.start] + site.after.encode() + content[site.span.end :]).decode()


def sites(source: str, file: str) -> list[Site]:
    """Every site of a source, in its order."""
    finder = _Finder(source, file)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda site: (site.span, site.kind))


class _Finder(ast.NodeVisitor):
    """Walks the tree; every ``visit_`` method adds the sites of its node and goes on below it."""

    def __init__(self, source: str, file: str) -> None:
        self.content, self.file = source.encode(), file
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line.encode()))
        self.path: list[str] = []
        self.counts: dict[tuple[str, str], int] = {}
        self.found: list[Site] = []

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> Span:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Span(self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset)

    def text(self, span: Span) -> str:
        return self.content[span.start : span.end].decode()

    def add(self, kind: str, span: Span, after: str) -> None:
        function = ".".join(self.path) or "<module>"
        number = self.counts[function, kind] = self.counts.get((function, kind), -1) + 1
        line = self.content[: span.start].count(b"\n") + 1
        self.found.append(Site(self.file, function, kind, number, line, self.text(span), after, span))

    def within(self, name: str, nodes: list[ast.stmt]) -> None:
        self.path.append(name)
        for node in _without_docstring(nodes):
            self.visit(node)
        self.path.pop()

    def visit_Module(self, node: ast.Module) -> None:
        for child in _without_docstring(node.body):
            self.visit(child)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.within(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *(value for value in node.args.kw_defaults if value)):
            self.visit(default)
        self.within(node.name, node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if "__all__" not in names:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self.add("negate the condition", self.span(node.test), f"not ({self.text(self.span(node.test))})")
        if node.orelse and not isinstance(node.orelse[0], ast.If):
            self.drop_statements("drop the else branch", node.orelse)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add("negate the condition", self.span(node.test), f"not ({self.text(self.span(node.test))})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for index, value in enumerate(node.values):
            others = [self.text(self.span(other)) for place, other in enumerate(node.values) if place != index]
            word = " and " if isinstance(node.op, ast.And) else " or "
            kind = "drop a half of the condition"
            self.add(kind, self.span(node), "(" + word.join(f"({other})" for other in others) + ")")
            self.visit(value)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            between = Span(self.span(left).end, self.span(right).start)
            gap = self.text(between)
            if gap.count("(") == gap.count(")") == 0:
                self.add("another comparison", between, f" {COMPARISONS[type(operator)]} ")
            left = right
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("another constant", self.span(node), str(not value))
        elif isinstance(value, (int, float)):
            self.add("another constant", self.span(node), f"({value!r} + 1)")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text for readers."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """A text for readers; whether it is raised is the condition above it."""

    def visit_Call(self, node: ast.Call) -> None:
        places = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        if len(places) == len(node.args) >= 2 and ast.dump(places[0]) != ast.dump(places[1]):
            first, second = self.span(places[0]), self.span(places[1])
            between = self.text(Span(first.end, second.start))
            self.add("swap two arguments", Span(first.start, second.end), self.text(second) + between + self.text(first))
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in ("strict", "help", "metavar", "prog"):
                self.drop_keyword(keyword)
        self.generic_visit(node)

    def drop_keyword(self, keyword: ast.keyword) -> None:
        span = self.span(keyword)
        rest = self.content[span.end :]
        after = rest[: len(rest) - len(rest.lstrip())]
        if rest.lstrip().startswith(b","):
            self.add("drop an argument", Span(span.start, span.end + len(after) + 1), "")
        else:
            self.add("drop an argument", span, "")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.add("return nothing", self.span(node), "return None")
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.add("drop the statement", self.span(node), "pass")
        self.generic_visit(node)

    def drop_statements(self, kind: str, nodes: list[ast.stmt]) -> None:
        self.add(kind, Span(self.span(nodes[0]).start, self.span(nodes[-1]).end), "pass")


def _without_docstring(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements without texts that stand alone."""
    return (node for node in nodes if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)))
