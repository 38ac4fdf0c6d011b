"""Modules that a reader takes in at once: a file is one idea."""

from __future__ import annotations

from tests.support.imports import modules

MOST_LINES = 300
"""Of a module of the pipeline: where everything meets, files grow."""


def test_no_module_of_the_pipeline_is_long() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in modules().items()
        if name.startswith("edgeq.pipeline")
    }
    assert len(lengths) > 50 and {name for name, lines in lengths.items() if lines > MOST_LINES} == set()
