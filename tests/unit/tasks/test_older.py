"""Bundles of format 1.0, which do not say whether the labels of a classifier exclude each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.manifest import Format, Manifest, PostprocessKind, PostprocessStep
from edgeq.bundle.reader import open_bundle
from edgeq.tasks.older import unsaid_kind
from edgeq.types import ProblemType, Role, SourceInfo, Task, TensorSpec

SOFTMAX = (PostprocessStep(PostprocessKind.SOFTMAX, ("logits",)),)
SIGMOID = (PostprocessStep(PostprocessKind.SIGMOID, ("logits",)),)


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """Of a classifier of four labels, as edgeq wrote it before it knew of several at once."""
    with open_bundle(tiny_bundle) as bundle:
        return classifier(bundle.manifest)


def classifier(
    manifest: Manifest,
    *,
    version: str = "1.0",
    task: Task = Task.SEQUENCE_CLASSIFICATION,
    problem: ProblemType | None = None,
    width: int = 4,
    steps: tuple[PostprocessStep, ...] = SOFTMAX,
) -> Manifest:
    outputs = (TensorSpec("logits", "float32", ("batch", width), Role.LOGITS),)
    source: SourceInfo = replace(manifest.source, task=task, problem_type=problem)
    variants = tuple(replace(variant, outputs=outputs) for variant in manifest.variants)
    return replace(
        manifest, format=Format(version=version), source=source, variants=variants, postprocess=steps
    )


def test_an_old_classifier_may_be_of_several_labels(manifest: Manifest) -> None:
    notice = unsaid_kind(manifest)
    assert notice is not None and "format 1.0" in notice and "taken as single-label" in notice


@pytest.mark.parametrize(
    "known",
    [
        {"version": "1.1"},
        {"problem": ProblemType.SINGLE_LABEL},
        {"steps": SIGMOID},
        {"width": 1},
        {"task": Task.TOKEN_CLASSIFICATION},
        {"task": Task.TEXT_GENERATION, "steps": ()},
    ],
    ids=str,
)
def test_nothing_is_said_where_the_bundle_says_it(known: dict[str, Any], manifest: Manifest) -> None:
    assert unsaid_kind(classifier(manifest, **known)) is None
