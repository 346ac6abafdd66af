"""Print the house's figures: how flat, how long, how deep and how tangled the source tree of edgekit is.

    python benchmarks/house.py                # the tree of this checkout, as a table
    python benchmarks/house.py --root DIR     # the tree of another checkout, an older one for example
    python benchmarks/house.py --json         # the same figures for a program

The script parses files and imports none of them, so it also measures a tree whose packages are not installed.

An import counts wherever it stands: at the top, in a function, under ``TYPE_CHECKING``. ``from edgekit.a import b`` is an import
of ``edgekit.a.b`` if that is a module, otherwise of ``edgekit.a``. Two kinds do not count: the ``__init__`` files that Python
runs around an imported module, and imports by a name in a string.

A room is a folder directly under ``edgekit/`` or a module directly in it. ``edgekit/__init__.py`` and ``edgekit/__main__.py`` are
neither rooms nor flat modules, because a package has to have them there.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import sys
import textwrap
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple, TypeAlias

ROOT = Path(__file__).parent.parent
PACKAGE = "edgekit"
FRAME = ("__init__.py", "__main__.py")
MANY_PARAMETERS = ("cli", "models/batchnorm.py")  # parameters: words of the command line, tensors of a formula
LONGEST_SHOWN = 10
WIDTH = 130

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Graph: TypeAlias = Mapping[str, Set[str]]
Component: TypeAlias = tuple[str, ...]
"""Nodes that all reach each other: one node, or the members of a cycle."""


class Figure(NamedTuple):
    """One number of the house, its largest allowed value, and the places that it comes from."""

    name: str
    value: int
    goal: int | None = None
    where: Sequence[str] = ()
    separator: str = "\n"

    @property
    def key(self) -> str:
        """The name as a key of JSON."""
        return re.sub(r"\W+", "_", self.name).strip("_")


class Module(NamedTuple):
    """One source file: its dotted name, its path below the package, its number of lines, and its syntax tree."""

    name: str
    path: str
    lines: int
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package from which its relative imports start."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]


class Function(NamedTuple):
    """A function or method: its place, its number of lines, and its number of named parameters."""

    where: str
    lines: int
    parameters: int


class Arrow(NamedTuple):
    """An import of one module by another."""

    importer: str
    imported: str
    where: str


class Floor(NamedTuple):
    """Rooms at one height; rooms that are ``apart`` may not import each other."""

    rooms: Set[str]
    apart: bool


def modules_of(root: Path) -> dict[str, Module]:
    """Parse every module of the package in the checkout ``root``; the keys are dotted names."""
    modules = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        path = file.relative_to(root / PACKAGE)
        parts = [part for part in path.with_suffix("").parts if part != "__init__"]
        text = file.read_text(encoding="utf-8")
        module = Module(".".join([PACKAGE, *parts]), path.as_posix(), len(text.splitlines()), ast.parse(text, str(file)))
        modules[module.name] = module
    return modules


def functions_of(module: Module) -> Iterator[Function]:
    """Every function of a module, including methods and nested functions; decorators do not count as lines."""
    waiting: list[tuple[ast.AST, str]] = [(module.tree, "")]
    while waiting:
        node, scope = waiting.pop()
        if isinstance(node, FunctionNode):
            where = f"{PACKAGE}/{module.path}:{node.lineno} {scope}{node.name}"
            yield Function(where, (node.end_lineno or node.lineno) - node.lineno + 1, count_parameters(node))
        if isinstance(node, FunctionNode | ast.ClassDef):
            scope += f"{node.name}."
        waiting += [(child, scope) for child in ast.iter_child_nodes(node)]


def count_parameters(node: FunctionNode) -> int:
    """The number of parameters of a function, without ``self``, ``cls``, ``*args`` and ``**kwargs``."""
    positional = [*node.args.posonlyargs, *node.args.args]
    is_bound = bool(positional) and positional[0].arg in ("self", "cls")
    return len(positional) + len(node.args.kwonlyargs) - is_bound


def public_names(module: Module) -> set[str]:
    """Public functions and classes at the top level of a module, including those under ``if``, ``try`` and ``with``."""
    names = set()
    waiting: list[ast.AST] = [module.tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, FunctionNode | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
                waiting.append(node)
    return {name for name in names if not name.startswith("_")}


def arrows_of(module: Module, modules: Mapping[str, Module]) -> Iterator[Arrow]:
    """The imports of other modules of the package by ``module``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(node, module.package):
                imported = nearest_module(name, modules)
                if imported is not None and imported != module.name:
                    yield Arrow(module.name, imported, f"{PACKAGE}/{module.path}:{node.lineno}")


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """The dotted names in an import statement of ``package``: names of modules, or of things inside modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = package.split(".")
    base = parts[: len(parts) + 1 - node.level] if node.level else []
    return [".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names]


def nearest_module(name: str, modules: Mapping[str, Module]) -> str | None:
    """The module that a dotted name is or lies in; None for another package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def room_of(module: Module) -> str | None:
    """The folder or flat module that a module is in; None for the package's own frame."""
    return None if module.path in FRAME else module.name.split(".")[1]


def graph_of(pairs: Iterable[tuple[str, str]], nodes: Iterable[str]) -> Graph:
    """Node -> the nodes that it points to."""
    graph: dict[str, set[str]] = {node: set() for node in nodes}
    for start, end in pairs:
        graph[start].add(end)
    return graph


def components_of(graph: Graph) -> list[Component]:
    """The strongly connected components by Tarjan's algorithm; each comes after all components that it points to."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components: list[Component] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], order[target])
        if lowest[node] == order[node]:
            start = stack.index(node)
            components.append(tuple(sorted(stack[start:])))
            del stack[start:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return components


def longest_chain(graph: Graph) -> list[Component]:
    """The longest chain of arrows on the condensation of the graph, from its top to its ground.

    Every member of a cycle counts. Otherwise one more arrow, if it closes a cycle, would make the chain shorter.
    """
    components = components_of(graph)
    home = {node: component for component in components for node in component}
    chains: dict[Component, list[Component]] = {}
    for component in components:
        below = {home[target] for node in component for target in graph[node]} - {component}
        chains[component] = [component, *max((chains[each] for each in sorted(below)), key=count_nodes, default=[])]
    return max((chains[each] for each in sorted(chains)), key=count_nodes, default=[])


def count_nodes(chain: Sequence[Component]) -> int:
    """The number of nodes in all components of a chain."""
    return sum(map(len, chain))


def shortest_cycle(graph: Graph, component: Component) -> list[str]:
    """The shortest path from the first node of a component back to that node, which stands at both ends."""
    start = component[0]
    waiting, visited = deque([[start]]), {start}
    while waiting:
        path = waiting.popleft()
        for target in sorted(graph[path[-1]] & set(component)):
            if target == start:
                return [*path, start]
            if target not in visited:
                visited.add(target)
                waiting.append([*path, target])
    return []


def floors_of(root: Path) -> list[Floor]:
    """The order of rooms from the top to the ground, from import-linter's contract in pyproject.toml.

    Empty without such a contract, and on Python 3.10, whose standard library does not read TOML.
    """
    path = root / "pyproject.toml"
    if sys.version_info < (3, 11) or not path.is_file():
        return []
    document = importlib.import_module("tomllib").loads(path.read_text(encoding="utf-8"))
    contracts = document.get("tool", {}).get("importlinter", {}).get("contracts", [])
    layers: list[str] = next((contract["layers"] for contract in contracts if contract.get("type") == "layers"), [])
    floors = []
    for layer in layers:
        rooms = {word.strip(" ()").removeprefix(f"{PACKAGE}.") for word in re.split("[|:]", layer)}
        floors.append(Floor(rooms, apart=":" not in layer))
    return floors


def measure_sizes(modules: Mapping[str, Module]) -> Iterator[Figure]:
    """The number of modules flat in the package, and the lengths of functions and files."""
    flat = [module.path for module in modules.values() if "/" not in module.path and module.path not in FRAME]
    yield Figure(f"modules flat in {PACKAGE}/", len(flat), 12, flat, separator=", ")
    functions = sorted((each for module in modules.values() for each in functions_of(module)), key=lambda each: -each.lines)
    longest = [f"{each.lines:4}  {each.where}" for each in functions[:LONGEST_SHOWN]]
    yield Figure("longest function, in lines", functions[0].lines if functions else 0, 50, longest)
    file = max(modules.values(), key=lambda module: module.lines)
    yield Figure("longest file, in lines", file.lines, None, [f"{PACKAGE}/{file.path}"])


def measure_parameters(modules: Mapping[str, Module], goal: int = 6) -> Figure:
    """The length of the largest parameter list; names that list, and every list above the goal."""
    judged = [module for module in modules.values() if not module.path.startswith(MANY_PARAMETERS)]
    functions = sorted((each for module in judged for each in functions_of(module)), key=lambda each: -each.parameters)
    named = functions[:1] + [each for each in functions[1:] if each.parameters > goal]
    where = [f"{each.parameters:4}  {each.where}" for each in named]
    return Figure("largest parameter list", functions[0].parameters if functions else 0, goal, where)


def measure_names(modules: Mapping[str, Module]) -> Figure:
    """Public functions and classes whose name another module defines too."""
    homes = defaultdict(list)
    for module in modules.values():
        for name in public_names(module):
            homes[name].append(module.path)
    where = [f"{name}: {', '.join(paths)}" for name, paths in sorted(homes.items()) if len(paths) > 1]
    return Figure("public names defined in two or more modules", len(where), None, where)


def measure_imports(modules: Mapping[str, Module], floors: Sequence[Floor]) -> Iterator[Figure]:
    """The depth of imports, between modules and between rooms, and the rooms that import each other in a cycle."""
    arrows = sorted(arrow for module in modules.values() for arrow in arrows_of(module, modules))
    chain = longest_chain(graph_of([(arrow.importer, arrow.imported) for arrow in arrows], modules))
    words = [shown(component).replace(f"{PACKAGE}.", "") for component in chain]
    yield Figure("longest import chain, in modules", count_nodes(chain), None, words, separator=" -> ")

    between: dict[tuple[str, str], str] = {}
    for arrow in arrows:
        start, end = room_of(modules[arrow.importer]), room_of(modules[arrow.imported])
        if start is not None and end is not None and start != end:
            between.setdefault((start, end), arrow.where)
    rooms = graph_of(between, sorted({room for module in modules.values() if (room := room_of(module)) is not None}))
    yield Figure("rooms", len(rooms))
    chain = longest_chain(rooms)
    yield Figure("longest import chain, in rooms", count_nodes(chain), 13, [shown(each) for each in chain], separator=" -> ")
    cycles = [component for component in components_of(rooms) if len(component) > 1]
    example = shortest_cycle(rooms, cycles[0]) if cycles else []
    yield Figure("groups of rooms that import each other in a cycle", len(cycles), 0, example, separator=" -> ")
    yield Figure("arrows between rooms", len(between))
    if floors:
        yield from measure_order(between, floors)
        ordered = {room for floor in floors for room in floor.rooms}
        unordered = sorted(set(rooms) - ordered)
        yield Figure("rooms that the order leaves out", len(unordered), 0, unordered, separator=", ")


def shown(component: Component) -> str:
    """A component as one word; the members of a cycle stand in brackets."""
    return component[0] if len(component) == 1 else f"({' + '.join(component)})"


def measure_order(between: Mapping[tuple[str, str], str], floors: Sequence[Floor]) -> Iterator[Figure]:
    """The arrows that run up, or between rooms of one floor that must be apart."""
    height = {room: -number for number, floor in enumerate(floors) for room in floor.rooms}
    apart = {room for floor in floors if floor.apart for room in floor.rooms}
    placed = [(start, end) for start, end in between if start in height and end in height]
    up = [pair for pair in placed if height[pair[1]] > height[pair[0]]]
    aside = [pair for pair in placed if height[pair[1]] == height[pair[0]] and pair[0] in apart]
    for name, pairs in (("arrows up", up), ("arrows between rooms that are to be apart", aside)):
        yield Figure(name, len(pairs), 0, [f"{start} -> {end}  {between[start, end]}" for start, end in pairs])


def measure(root: Path) -> list[Figure]:
    """All figures of the checkout ``root``."""
    modules = modules_of(root)
    if not modules:
        raise SystemExit(f"{root} has no Python files in {PACKAGE}/; --root takes the root of a checkout")
    names = [measure_parameters(modules), measure_names(modules)]
    return [*measure_sizes(modules), *names, *measure_imports(modules, floors_of(root))]


def table(figures: Iterable[Figure]) -> Iterator[str]:
    """Lines of text: each figure with its goal, and below it the places that it comes from."""
    for figure in figures:
        goal = "" if figure.goal is None else f"   goal <= {figure.goal}: {'met' if figure.value <= figure.goal else 'NOT MET'}"
        yield f"{figure.name:<50}{figure.value:>5}{goal}"
        if figure.separator == "\n":
            yield from (f"    {line}" for line in figure.where)
        else:
            text = figure.separator.join(figure.where)
            yield from textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)


def main() -> None:
    """Measure the tree that the command line names, and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the root of another checkout")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    figures = measure(options.root)
    if options.json:
        document = {each.key: {"value": each.value, "goal": each.goal, "where": list(each.where)} for each in figures}
        text = json.dumps(document, indent=2)
    else:
        text = "\n".join(table(figures))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as behind ``| head``; otherwise Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
