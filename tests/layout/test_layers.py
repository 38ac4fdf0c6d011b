"""The dependency direction, held by reading every import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "edgeq": ROOT / "toolkit" / "edgeq",
    "edgeq.targets": ROOT / "targets",
    "edgeq.exporters": ROOT / "exporters",
}

# A module may import from its own layer and from those to the right of it.
LAYERS = (
    ("cli", "__main__"),
    ("api",),
    ("pipeline",),
    ("exporters", "targets"),
    ("comparison", "report"),
    ("runtime", "quantize"),
    ("tasks",),
    ("bundle",),
    ("graph", "calibration"),
    (
        "onnx_runtime",
        "numerics",
        "saturation",
        "metrics",
        "config",
        "files",
        "zips",
        "onnx_references",
        "arrays",
        "scratch",
        "caches",
        "progress",
        "allocator",
        "memory",
    ),
    ("types", "errors"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FOREIGN = {"exporters": "targets", "targets": "exporters"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            relative = path.relative_to(folder)
            if package == "edgeq" and relative.parts[0] in ("targets", "exporters"):
                continue  # links for editors
            name = ".".join((package, *relative.with_suffix("").parts)).removesuffix(".__init__")
            found.append((name, path))
    return found


def part_of(module: str) -> str | None:
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else None


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported edgeq modules, and whether only for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, id(node) in typing_only) for name in names]
    return found


def violations(name: str, path: Path) -> list[str]:
    mine = part_of(name)
    if mine is None:
        return []
    problems = []
    for imported, _typing_only in imports(path):
        theirs = part_of(imported) if imported.startswith("edgeq.") else None
        if theirs is None or theirs == mine or theirs == "__version__":
            continue
        if RANK[theirs] < RANK[mine] or FOREIGN.get(mine) == theirs:
            problems.append(f"{name} imports {imported}")
    return problems


def test_every_part_has_a_layer() -> None:
    assert {part_of(name) for name, _ in modules()} - {None} == set(RANK)


def test_imports_point_one_way() -> None:
    assert [problem for name, path in modules() for problem in violations(name, path)] == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from edgeq.pipeline.export import run_export\nfrom edgeq.exporters import load_model\n")
    assert len(violations("edgeq.targets.wrong", wrong)) == 2


@pytest.mark.parametrize("heavy", ["torch", "transformers"])
def test_only_exporters_import_the_framework(heavy: str) -> None:
    users = {
        name for name, path in modules() for imported, _ in imports(path) if imported.split(".")[0] == heavy
    }
    assert users and all(part_of(name) == "exporters" for name in users)
