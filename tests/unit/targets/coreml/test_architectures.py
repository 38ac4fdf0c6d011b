"""Every text encoder the exporters take in, tiny and random, through package and interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.exporters import ARCHITECTURES
from edgeq.samples import as_samples

TEXTS = "hello world, this is a test"
LENGTH = 24


def compare(export: Any, interpreter: Any) -> float:
    """Smallest cosine over outputs, at real tokens."""
    feeds = export.preprocessor(as_samples([TEXTS[:20]]), pad_to=LENGTH)
    real = feeds["attention_mask"][0].astype(bool)
    assert not real.all()
    expected, found = export.reference(feeds), interpreter.run(feeds)
    assert set(found) == set(expected)
    cosines = []
    for name, value in expected.items():
        a, b = (array[:, real] if array.ndim == 3 else array for array in (value, found[name]))
        assert a.shape == b.shape
        cosines.append(float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)))
    return min(cosines)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp32_equals_the_original(exported: Any, lower: Any, architecture: str) -> None:
    export = exported(architecture)
    interpreter, _ = lower(export.canonical.model, seq_lens=(LENGTH,), ios=16)
    # Both sides are float32; only the order of sums differs.
    assert compare(export, interpreter) > 0.999999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp16_stays_within_rounding(exported: Any, lower: Any, architecture: str) -> None:
    export = exported(architecture)
    interpreter, _ = lower(export.canonical.model, seq_lens=(LENGTH,), precision="fp16")
    # About 40 roundings of relative size 2^-11 in two layers leave 1 - cos near 40 * 2^-22 / 2; ten times that.
    assert compare(export, interpreter) > 1 - 5e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_enumerated_lengths_share_one_program(exported: Any, lower: Any, architecture: str) -> None:
    export = exported(architecture)
    interpreter, _ = lower(export.canonical.model, seq_lens=(16, LENGTH, 32), ios=18)
    assert {feature.shapes for feature in interpreter.inputs} == {((1, 32), (1, 16), (1, LENGTH))}
    assert compare(export, interpreter) > 0.999999


def test_another_model_would_not_pass(exported: Any, lower: Any) -> None:
    interpreter, _ = lower(exported("electra").canonical.model, seq_lens=(LENGTH,))
    assert compare(exported("bert"), interpreter) < 0.9


@pytest.mark.parametrize(
    "task", ["sequence-classification", "token-classification", "question-answering", "fill-mask"]
)
def test_heads(exported: Any, lower: Any, task: str) -> None:
    export = exported("bert", task)
    interpreter, _ = lower(export.canonical.model, seq_lens=(LENGTH,))
    assert compare(export, interpreter) > 0.999999
