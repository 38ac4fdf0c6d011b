from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from edgeq.comparison import GateRequest, check_gate_metrics, gates_for
from edgeq.errors import DataError, UnsupportedError, UsageError
from edgeq.pipeline.choices import require_language_model
from edgeq.pipeline.generation.data import calibration_windows, window_feeds
from edgeq.pipeline.generation.measure import golden_prompts
from edgeq.pipeline.generation.planning import language_recipe, language_variants
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.generation.settings import CacheShape
from edgeq.targets import get_target
from edgeq.tasks import possible_metrics
from edgeq.tasks.next_token import NEXT_TOKEN
from edgeq.types import Precision, Task


@dataclass
class Notices:
    found: list[str] = field(default_factory=list)

    def notice(self, message):
        self.found.append(message)


def test_the_hint_names_every_target_that_takes_them():
    with pytest.raises(UnsupportedError, match="does not take language models") as refused:
        language_variants({"coreml": get_target("coreml")}, load_recipe("int4"), (), Notices())
    assert refused.value.hint == "--target android, cpu or gguf"
    with pytest.raises(UnsupportedError, match="takes language models") as refused:
        require_language_model({"gguf": get_target("gguf")}, SimpleNamespace(model="m", task="fill-mask"))
    assert refused.value.hint == "--target android, coreml or cpu"


def test_int8_is_weight_only():
    notices = Notices()
    recipe = language_recipe(load_recipe("int8"), notices)
    assert recipe.name == "int8"
    assert (recipe.default.format, recipe.default.bits, recipe.default.block_size) == ("weight-only", 8, 16)
    assert "weight-only" in notices.found[0]
    assert language_recipe(recipe, notices) == recipe


def test_other_recipes_are_kept_and_static_ones_refused():
    for name in ("int4", "q4_k_m", "fp16", "fp32"):
        assert language_recipe(load_recipe(name), Notices()) == load_recipe(name)
    with pytest.raises(UnsupportedError, match=r"q8-static. wants static int8"):
        language_recipe(load_recipe("q8-static"), Notices())


def test_variants():
    recipe, notices = load_recipe("fp32"), Notices()
    found = language_variants({"android": get_target("android")}, recipe, (), notices)
    assert [spec.id for spec in found["android"]] == ["cpu-fp32"]
    assert any("no nnapi variant" in notice for notice in notices.found)
    with pytest.raises(UnsupportedError, match="variant `nnapi` runs no language model"):
        language_variants({"android": get_target("android")}, recipe, ("nnapi",), notices)


def test_calibration_feeds_are_full_windows_with_an_empty_past():
    feeds = window_feeds(calibration_windows(np.arange(300), 128), CacheShape(2, 3, 4))
    assert feeds.feeds["input_ids"].shape == (2, 128)
    np.testing.assert_array_equal(feeds.feeds["input_ids"].ravel(), np.arange(256))
    assert feeds.feeds["past_key_values.1.value"].shape == (2, 3, 0, 4)
    with pytest.raises(DataError, match="100 tokens, expected at least 128"):
        calibration_windows(np.arange(100), 128)


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(288, 6), (2048, 6), (5000, 4), (32_000, 2), (150_000, 2)]
)
def test_small_vocabularies_have_more_golden_prompts(vocabulary, expected):
    """And whatever the vocabulary, one of tokens from all over it."""
    prompts = tuple(tuple(range(24)) for _ in range(9))
    data = SimpleNamespace(prompts=prompts, prompt_texts=tuple(f"text {index}" for index in range(9)))
    *texts, (rare, text) = golden_prompts(data, 24, vocabulary)
    assert len(texts) == expected and all(words for _, words in texts)
    assert rare[-1] == vocabulary - 1 and text == ()


GOOD = {"kl_mean": 0.001, "top1_agreement": 0.99, "n": 10.0}


def gates(metrics, precision=Precision.INT8, requests=()):
    return gates_for("v", precision, {"logits": metrics}, requests, 10, NEXT_TOKEN)


def test_default_gates_and_their_twins():
    assert all(gate.passed for gate in gates(GOOD))
    for changes in ({"kl_mean": 0.03}, {"top1_agreement": 0.9}, {"kl_mean": float("nan")}):
        assert [gate.passed for gate in gates(GOOD | changes)] in ([True, False], [False, True])
    assert all({*floor.thresholds} == {*Precision} for floor in NEXT_TOKEN.floors)


def test_gates_of_the_user():
    (gate,) = gates(GOOD, Precision.INT4, (GateRequest("kl_mean", "<=", 0.0005),))
    assert (gate.passed, gate.derived_from) == (False, "--gate")
    with pytest.raises(UsageError, match="a metric this task does not have"):
        check_gate_metrics((GateRequest("spearman_drop", "<=", 0.1),), possible_metrics(Task.TEXT_GENERATION))
