"""No module imports itself by way of others, and an import hides in a function only where something heavy does."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.support.imports import comes_with, cycles, import_graph, imports_of, modules

HEAVY = frozenset(
    {
        "coremltools",
        "datasets",
        "gguf",
        "huggingface_hub",
        "jinja2",
        "llama_cpp",
        "matplotlib",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "onnxruntime_genai",
        "onnxscript",
        "pyarrow",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    }
)
"""Packages that take a tenth of a second or more to import, or belong to an extra."""
AT_START = frozenset({"numpy", "yaml", "rich"})
"""Light beside those, and heavy for `import edgeq` and for a command that prints its help."""
FRONT = ("edgeq.cli", "edgeq.__main__", "edgeq.api")
SCRIPTS = frozenset({"edgeq.runtime.generation.engine_script"})
"""Run by their paths under interpreters without edgeq, which they have to find before they import it."""


def without_cause(module: str, heavy: frozenset[str]) -> list[str]:
    """Imports in functions that bring nothing heavy which the module does not bring anyway."""
    brought = comes_with(module)
    return [
        f"{module} imports {item.module} in a function"
        for item in imports_of(module)
        if item.is_local and item.module in modules() and not (comes_with(item.module) - brought) & heavy
    ]


def heavy_for(module: str) -> frozenset[str]:
    return HEAVY | AT_START if module.startswith(FRONT) else HEAVY


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Over all imports: in functions and for type checking too, which hide a circle and do not open it."""
    assert cycles(import_graph()) == []


def test_imports_in_functions_keep_something_heavy_away() -> None:
    ordinary = [module for module in modules() if module not in SCRIPTS]
    assert [found for module in ordinary for found in without_cause(module, heavy_for(module))] == []


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_import_edgeq_in_functions_alone(script: str) -> None:
    found = [item for item in imports_of(script) if item.module in modules()]
    assert found and all(item.is_local for item in found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [["d", "e"], ["a", "b", "c"]]),
    ],
)
def test_circles_are_found(graph: Mapping[str, set[str]], expected: list[list[str]]) -> None:
    assert cycles(graph) == expected


def test_a_light_import_in_a_function_is_found() -> None:
    """`edgeq.pipeline.stored` asks targets for what they are; nothing is light to itself."""
    assert without_cause("edgeq.cli.export", frozenset())
