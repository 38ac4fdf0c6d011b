"""Every import of edgeq's modules: who imports whom, where in the file, and what outside of edgeq comes with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "edgeq": ROOT / "toolkit" / "edgeq",
    "edgeq.targets": ROOT / "targets",
    "edgeq.exporters": ROOT / "exporters",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module.

    Attributes:
        module: its dotted name.
        is_local: made in a function.
        is_typing: under `TYPE_CHECKING`.
    """

    module: str
    is_local: bool = False
    is_typing: bool = False


@cache
def modules() -> Mapping[str, Path]:
    """File by dotted name, of every module."""
    found = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            relative = path.relative_to(folder)
            if package == "edgeq" and relative.parts[0] in ("targets", "exporters"):
                continue  # links for editors
            name = ".".join((package, *relative.with_suffix("").parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports_in(path: Path) -> list[Import]:
    """All imports of a file; of `from a import b` where `b` is a module, and of every name of `edgeq` itself, that."""
    return [
        Import(name, is_local, is_typing)
        for node, is_local, is_typing in _nodes(ast.parse(path.read_text(encoding="utf-8")))
        for name in _names(node)
    ]


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """All imports of a module of edgeq."""
    return tuple(imports_in(modules()[module]))


def _nodes(
    node: ast.AST, is_local: bool = False, is_typing: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_local, is_typing
        inside = is_local or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = is_typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        yield from _nodes(child, inside, typing)


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if base == "edgeq":
        return [f"edgeq.{alias.name}" for alias in node.names]
    whole = (f"{base}.{alias.name}" for alias in node.names)
    return list(dict.fromkeys(name if name in modules() else base for name in whole))


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def import_graph() -> dict[str, set[str]]:
    """Modules of edgeq by the modules that import them, in functions and for type checking too."""
    return {
        name: {item.module for item in imports_of(name) if item.module in modules()} - {name}
        for name in modules()
    }


@cache
def comes_with(module: str) -> frozenset[str]:
    """Outside packages that importing a module imports, directly or through other modules of edgeq."""
    seen: set[str] = set()
    outside: set[str] = set()
    waiting = _with_parents(module)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for item in imports_of(name):
            if item.is_local or item.is_typing:
                continue
            if item.module in modules():
                waiting += _with_parents(item.module)
            else:
                outside.add(item.module.split(".")[0])
    return frozenset(outside)


def _with_parents(module: str) -> list[str]:
    """A module and the packages it lies in, which are imported first."""
    parts = module.split(".")
    return [name for end in range(1, len(parts) + 1) if (name := ".".join(parts[:end])) in modules()]
