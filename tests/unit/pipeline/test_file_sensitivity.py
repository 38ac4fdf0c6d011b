"""Each tensor of a file alone: the damaged one comes first, and those that are exact lose nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.exporters.causal_lm import open_original
from edgeq.pipeline.generation import file_sensitivity as file_sensitivity_module
from edgeq.pipeline.generation.file_sensitivity import BYTES_PER_VALUE, file_sensitivity, require_room
from edgeq.progress import SilentProgress
from edgeq.tasks import Head
from edgeq.tasks.next_token import NEXT_TOKEN
from edgeq.types import FloatArray, Role, TensorSpec

HEAD = Head(NEXT_TOKEN, (TensorSpec("logits", "float32", ("batch", "sequence", "vocabulary"), Role.LOGITS),))
HARMED, LESS = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.v_proj.weight"
EXACT = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def original(tiny_decoder: Callable[..., Path]) -> Any:
    return open_original(tiny_decoder("llama"))


def stored(original: Any, noise: Mapping[str, float]) -> Any:
    """A target whose file holds these parameters with so much noise each, and all others exactly."""
    rng = np.random.default_rng(0)

    def read_back(*_: object) -> dict[str, FloatArray]:
        found = {}
        for name, spread in noise.items():
            exact = np.concatenate(list(original.tensors[name].rows()))
            found[name] = exact + rng.normal(size=exact.shape).astype(np.float32) * spread * exact.std()
        return found

    return SimpleNamespace(read_back=read_back, formats=lambda *_: dict.fromkeys(noise, "Q4_0"))


def test_the_most_harmed_comes_first(original: Any) -> None:
    target = stored(original, {EXACT: 0.0, LESS: 0.1, HARMED: 1.0})
    batches = [{"input_ids": np.arange(12)[None]}, {"input_ids": np.arange(20, 30)[None]}]
    effects = file_sensitivity(target, Path(), original, HEAD, batches, SilentProgress())
    assert [effect.name for effect in effects] == [
        "layers.1.mlp.down_proj",
        "layers.0.self_attn.v_proj",
        "layers.0.mlp.up_proj",
    ]
    assert effects[0].kl is not None and effects[0].kl == effects[0].loss > 10 * effects[1].loss
    assert effects[2].loss == pytest.approx(0, abs=1e-9) and effects[0].format == "q4_0"


def test_the_divergence_is_that_of_the_whole_model(original: Any) -> None:
    """By hand: logits with the one weight changed, softmax, sum of p log(p / q)."""
    target = stored(original, {HARMED: 1.0})
    ids = np.arange(12)[None]
    (effect,) = file_sensitivity(
        stored(original, {HARMED: 1.0}), Path(), original, HEAD, [{"input_ids": ids}], SilentProgress()
    )
    p, q = (
        np.exp(rows - rows.max(-1, keepdims=True)).astype(np.float64)
        for rows in (original.reference(ids)[0], original.with_weights(target.read_back())(ids)[0])
    )
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    assert effect.kl == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()), rel=1e-4)


def test_a_tensor_that_does_not_fit_is_refused(original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(tensor.size for tensor in original.tensors.values())
    monkeypatch.setattr(file_sensitivity_module, "free_memory", lambda: BYTES_PER_VALUE * largest)
    require_room(original)
    monkeypatch.setattr(file_sensitivity_module, "free_memory", lambda: BYTES_PER_VALUE * largest - 1)
    with pytest.raises(UnsupportedError, match="GB are free"):
        require_room(original)


def test_a_file_of_floats_has_nothing_to_measure(original: Any) -> None:
    assert file_sensitivity(stored(original, {}), Path(), original, HEAD, [], SilentProgress()) == []
