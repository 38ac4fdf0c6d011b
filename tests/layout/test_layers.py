"""The dependency direction, held by reading every import."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.imports import imports_in, modules

import edgeq

# A module may import from its own layer and from those to the right of it.
LAYERS = (
    ("cli", "__main__"),
    ("api",),
    ("pipeline",),
    ("exporters", "targets"),
    ("comparison", "report"),
    ("runtime", "quantize"),
    ("processors",),
    ("tasks",),
    ("bundle",),
    ("graph", "calibration", "families"),
    (
        "onnx_runtime",
        "numerics",
        "saturation",
        "metrics",
        "samples",
        "config",
        "files",
        "zips",
        "onnx_references",
        "text_inputs",
        "arrays",
        "scratch",
        "caches",
        "progress",
        "allocator",
        "memory",
    ),
    ("types", "errors", "version"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FOREIGN = {"exporters": "targets", "targets": "exporters"}


def part_of(module: str) -> str | None:
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else None


def names_in(path: Path) -> list[str]:
    return [item.module for item in imports_in(path)]


def violations(name: str, path: Path) -> list[str]:
    mine = part_of(name)
    if mine is None:
        return []
    problems = []
    for imported in names_in(path):
        theirs = part_of(imported) if imported.startswith("edgeq.") else None
        if theirs not in RANK or theirs == mine:
            continue
        if RANK[theirs] < RANK[mine] or FOREIGN.get(mine) == theirs:
            problems.append(f"{name} imports {imported}")
    return problems


def test_every_part_has_a_layer() -> None:
    assert {part_of(name) for name in modules()} - {None} == set(RANK)


def test_imports_point_one_way() -> None:
    assert [problem for name, path in modules().items() for problem in violations(name, path)] == []


def test_nothing_imports_the_front_door() -> None:
    """`edgeq` imports the verbs and they the rest: an import of it from below would close a circle."""
    verbs = {"edgeq", *(f"edgeq.{name}" for name in edgeq.__all__)}
    users = {name for name, path in modules().items() for imported in names_in(path) if imported in verbs}
    assert users == set()


def test_the_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from edgeq.pipeline.export import run_export\nfrom edgeq.exporters import load_model\n")
    assert len(violations("edgeq.targets.wrong", wrong)) == 2


@pytest.mark.parametrize("heavy", ["torch", "transformers"])
def test_only_exporters_import_the_framework(heavy: str) -> None:
    users = {
        name
        for name, path in modules().items()
        for imported in names_in(path)
        if imported.split(".")[0] == heavy
    }
    assert users and all(part_of(name) == "exporters" for name in users)
