"""Weight formats and methods are told apart by what they are; their names are compared in one place each."""

from __future__ import annotations

import ast

import pytest
from tests.layout.test_layers import modules

from edgeq.quantize.formats import FORMATS
from edgeq.quantize.methods import METHODS

HOMES = ("edgeq.quantize.formats", "edgeq.quantize.methods")
# Names of number types too, which Core ML and files of checkpoints compare as such.
SHARED = {"fp32", "fp16"}
# Checkpoints that others quantized name their method by the same words.
FOREIGN = "edgeq.exporters"


def constants(node: ast.expr) -> set[object]:
    return {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)}


def comparisons(source: str, *, is_foreign: bool = False) -> list[str]:
    """Comparisons with the name of a format or a method, and of any `.format` or `.method` with a shared one."""
    distinct = set(FORMATS) - SHARED | (set() if is_foreign else set(METHODS))
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.match_case):
            names = constants(node.pattern)  # type: ignore[arg-type]
            parts: list[ast.expr] = []
        elif isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            names = set().union(*map(constants, parts))
        else:
            continue
        attributes = {part.attr for part in parts if isinstance(part, ast.Attribute)}
        if names & distinct or (names & SHARED and attributes & {"format", "method"}):
            found.append(ast.unparse(node))
    return found


def test_names_are_compared_at_home_only() -> None:
    found = [
        f"{name}: {text}"
        for name, path in modules().items()
        if name not in HOMES
        for text in comparisons(path.read_text("utf-8"), is_foreign=name.startswith(FOREIGN))
    ]
    assert found == []


@pytest.mark.parametrize(
    "wrong",
    [
        'spec.format == "weight-only"',
        '"gptq" != job.spec.method',
        'spec.format in ("fp32", "fp16")',
        'name in {"awq", "rtn"}',
        'match kind:\n    case "palette":\n        pass',
    ],
)
def test_the_check_can_fail(wrong: str) -> None:
    assert len(comparisons(wrong)) == 1


def test_number_types_are_no_formats() -> None:
    assert comparisons('site.dtype == "fp16"') == []
