"""For each kind: noise as of quantization holds the int8 floors, damage does not; the old floor saw less of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeq.comparison import gates_for
from edgeq.metrics import KNOWN_METRICS
from edgeq.tasks import TASKS, Head, Kind
from edgeq.tasks.tokens import Tokens
from edgeq.types import Array, Outputs, Precision, Role, TensorSpec

ROWS, LENGTH, LABELS, VOCABULARY, WIDTH = 400, 20, 9, 50, 32
MASK = 4
RNG = np.random.default_rng(7)


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", *shape), Role(name))


HEADS = {
    Kind.EMBEDDING: (spec("sentence_embedding", WIDTH),),
    Kind.SINGLE_LABEL: (spec("logits", LABELS),),
    Kind.MULTI_LABEL: (spec("logits", LABELS),),
    Kind.SCORE: (spec("logits", 1),),
    Kind.TOKEN_CLASSIFICATION: (spec("logits", "sequence", LABELS),),
    Kind.QUESTION_ANSWERING: (spec("start_logits", "sequence"), spec("end_logits", "sequence")),
    Kind.FILL_MASK: (spec("logits", "sequence", VOCABULARY),),
    Kind.NEXT_TOKEN: (spec("logits", "sequence", VOCABULARY),),
}


def head(kind: Kind) -> Head:
    return Head(TASKS[kind], HEADS[kind], mask_id=MASK)


def tokens() -> Tokens:
    """Lengths from 5 to all; one mask in every text."""
    lengths = np.arange(ROWS) % (LENGTH - 5) + 5
    ids = np.random.default_rng(1).integers(MASK + 1, VOCABULARY, (ROWS, LENGTH))
    ids[np.arange(ROWS), np.arange(ROWS) % 5] = MASK
    return Tokens(ids, (np.arange(LENGTH)[None] < lengths[:, None]).astype(np.int64))


def original(kind: Kind) -> Outputs:
    """Outputs of a confident model: one logit stands out by ten."""
    rng = np.random.default_rng(3)
    found: Outputs = {}
    for item in HEADS[kind]:
        shape = [dim if isinstance(dim, int) else LENGTH for dim in item.shape[1:]]
        values = rng.normal(size=(ROWS, *shape))
        if kind is Kind.SCORE:
            values = 5 + values
        elif kind is Kind.MULTI_LABEL:
            values = 4 * values
        elif kind is not Kind.EMBEDDING:
            chosen = rng.integers(
                0, shape[-1] if len(shape) > 1 or kind is Kind.SINGLE_LABEL else 5, values.shape[:-1]
            )
            np.put_along_axis(values, chosen[..., None], 10, axis=-1)
        found[item.name] = values.astype(np.float32)
    return found


def noisy(outputs: Outputs) -> Outputs:
    """A tenth of the spread, which is more than int8 does."""
    rng = np.random.default_rng(4)
    return {
        name: (array + rng.normal(size=array.shape) * 0.1 * min(array.std(), 1.0)).astype(np.float32)
        for name, array in outputs.items()
    }


def metrics(kind: Kind, expected: Outputs, found: Outputs) -> dict[str, dict[str, float]]:
    comparison = head(kind).compare()
    comparison.add(expected, found, tokens())
    return comparison.metrics()


def failed(kind: Kind, found: Outputs, precision: Precision = Precision.INT8) -> set[str]:
    """Floors that some outputs miss."""
    measured = metrics(kind, original(kind), found)
    gates = gates_for("v", precision, measured, (), ROWS, TASKS[kind])
    return {gate.metric for gate in gates if not gate.passed}


def old_floor(kind: Kind, found: Outputs) -> bool:
    """What every kind was held to: a mean cosine of 0.97 over all tokens."""
    alike = Head(TASKS[Kind.EMBEDDING], HEADS[kind])
    comparison = alike.compare()
    comparison.add(original(kind), found, tokens())
    return all(values["cosine_mean"] >= 0.97 for values in comparison.metrics().values())


def swapped(array: Array, a: int, b: int) -> Array:
    changed = array.copy()
    changed[..., [a, b]] = array[..., [b, a]]
    return changed


def change(name: str, damage: Callable[[Array], Array]) -> Callable[[Outputs], Outputs]:
    return lambda outputs: outputs | {name: damage(outputs[name]).astype(np.float32)}


def destroy_some(array: Array) -> Array:
    """One row in fifty is another's, as when a rare word's row of the table is gone."""
    changed = array.copy()
    changed[::50] = array[25::50]
    return changed


def shift_label(array: Array) -> Array:
    changed = array.copy()
    changed[:, 3] += 2
    return changed


def swap_at_masks(array: Array) -> Array:
    """All words change places two by two, which shows where a word is guessed."""
    order = np.arange(VOCABULARY) ^ 1
    ids = tokens().ids
    assert ids is not None
    return np.where((ids == MASK)[..., None], array[..., order], array)


DAMAGES: dict[str, tuple[Kind, Callable[[Outputs], Outputs], bool]] = {
    # Kind, damage, whether the old floor let it pass.
    "score times 1.5": (Kind.SCORE, change("logits", lambda a: 1.5 * a), True),
    "score about its mean times 1.5": (Kind.SCORE, change("logits", lambda a: 5 + 1.5 * (a - 5)), True),
    "score plus half its spread": (Kind.SCORE, change("logits", lambda a: a + 0.5), True),
    "score of another text": (Kind.SCORE, change("logits", lambda a: a[::-1]), True),
    "score with the other sign": (Kind.SCORE, change("logits", lambda a: -a), False),
    "scores all equal": (Kind.SCORE, change("logits", lambda a: np.full_like(a, 5)), True),
    "one label shifted": (Kind.MULTI_LABEL, change("logits", shift_label), True),
    "two labels swapped": (Kind.MULTI_LABEL, change("logits", lambda a: swapped(a, 1, 2)), False),
    "two classes swapped": (Kind.SINGLE_LABEL, change("logits", lambda a: swapped(a, 1, 2)), False),
    "two token labels swapped": (
        Kind.TOKEN_CLASSIFICATION,
        change("logits", lambda a: swapped(a, 1, 2)),
        False,
    ),
    "answers end a token later": (
        Kind.QUESTION_ANSWERING,
        change("end_logits", lambda a: np.roll(a, 1, axis=1)),
        False,
    ),
    "start and end swapped": (
        Kind.QUESTION_ANSWERING,
        lambda o: {"start_logits": o["end_logits"], "end_logits": o["start_logits"]},
        False,
    ),
    "a bias on the end of the first token": (
        Kind.QUESTION_ANSWERING,
        change("end_logits", lambda a: a + 12 * (np.arange(LENGTH) == 0)),
        False,
    ),
    "two next tokens swapped": (Kind.NEXT_TOKEN, change("logits", lambda a: swapped(a, 1, 2)), False),
    "words swapped at masks": (Kind.FILL_MASK, change("logits", swap_at_masks), False),
    "an embedding in fifty": (Kind.EMBEDDING, change("sentence_embedding", destroy_some), True),
}


@pytest.mark.parametrize("kind", TASKS)
def test_quantization_noise_holds_every_floor(kind: Kind) -> None:
    assert failed(kind, noisy(original(kind))) == set()


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("kind", TASKS)
def test_the_same_outputs_hold_every_floor(kind: Kind, precision: Precision) -> None:
    assert failed(kind, original(kind), precision) == set()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_fails_where_noise_does_not(name: str) -> None:
    kind, damage, _ = DAMAGES[name]
    assert failed(kind, damage(original(kind)))
    assert failed(kind, damage(noisy(original(kind))))


@pytest.mark.parametrize("name", [name for name, (_, _, is_blind) in DAMAGES.items() if is_blind])
def test_the_cosine_alone_did_not_see_it(name: str) -> None:
    """Why there are other floors: this fails as soon as a damage is one that the old floor catches."""
    kind, damage, _ = DAMAGES[name]
    assert old_floor(kind, damage(original(kind)))


def test_only_the_tail_sees_an_embedding_in_fifty() -> None:
    found = failed(Kind.EMBEDDING, destroy_some_embeddings())
    assert "cosine_p01" in found and "cosine_mean" not in found


def destroy_some_embeddings() -> Outputs:
    return DAMAGES["an embedding in fifty"][1](original(Kind.EMBEDDING))


@pytest.mark.parametrize("kind", TASKS)
def test_a_value_that_is_not_finite_makes_every_metric_nan(kind: Kind) -> None:
    for bad in (np.nan, np.inf):
        expected = original(kind)
        damaged = {name: array.copy() for name, array in expected.items()}
        for array in damaged.values():
            array[0, 0] = bad
        for found in metrics(kind, expected, damaged).values():
            assert found.pop("n") and np.isnan(list(found.values())).all(), found


@pytest.mark.parametrize("kind", TASKS)
def test_an_entry_is_whole(kind: Kind) -> None:
    entry = TASKS[kind]
    measured = metrics(kind, original(kind), noisy(original(kind)))
    assert entry.kind is kind and set(entry.metrics) <= set(KNOWN_METRICS)
    assert all(set(found) == {"n", *entry.metrics} for found in measured.values())
    named = {*entry.kept, *entry.derived, *(floor.metric for floor in entry.floors)}
    assert named <= set(entry.metrics)
    has_tail = any(floor.metric.endswith(("p01", "p99")) for floor in entry.floors)
    assert has_tail or entry.is_autoregressive, "a mean hides a tail"
    assert all(set(floor.thresholds) == set(Precision) for floor in entry.floors)
    assert (entry.labelled is None) == bool(entry.no_labels)


def test_floors_are_stricter_for_more_bits() -> None:
    order = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT4)
    for entry in TASKS.values():
        for floor in entry.floors:
            values = [floor.thresholds[precision] for precision in order]
            assert values == sorted(values, reverse=floor.op == ">=") and len(set(values)) == 4


def test_scores_that_are_all_equal_have_a_unit() -> None:
    flat = {"logits": np.full((ROWS, 1), 2, np.float32)}
    found = metrics(Kind.SCORE, flat, {"logits": np.full((ROWS, 1), 2.5, np.float32)})["logits"]
    assert found["score_error_mean"] == pytest.approx(25) and found["rank_correlation"] == 1
    zero = {"logits": np.zeros((ROWS, 1), np.float32)}
    assert metrics(Kind.SCORE, zero, flat)["logits"]["score_error_mean"] == 2


def test_scores_that_hardly_differ_are_held_to_a_hundredth_of_their_size() -> None:
    """An untrained reranker's differ by a thousandth: a third of that is no error that anybody sees."""
    scores = 4 + 0.004 * np.random.default_rng(0).normal(size=(ROWS, 1)).astype(np.float32)
    errors = {
        offset: metrics(Kind.SCORE, {"logits": scores}, {"logits": scores + np.float32(offset)})["logits"]
        for offset in (0.0014, 0.5)
    }
    assert errors[0.0014]["score_error_mean"] == pytest.approx(0.035, rel=0.01)
    assert errors[0.5]["score_error_mean"] > 10
    # Spread out, they are held to their spread.
    wide = {"logits": 100 * (scores - 4)}
    assert metrics(Kind.SCORE, wide, {"logits": wide["logits"] + 0.2})["logits"]["score_error_mean"] > 0.4


def test_a_near_tie_costs_nothing_and_a_clear_choice_does() -> None:
    expected = {"logits": np.array([[0.0, 1e-6], [0.0, 5.0]], np.float32)}
    item = Head(TASKS[Kind.SINGLE_LABEL], (spec("logits", 2),))
    comparison = item.compare()
    comparison.add(expected, {"logits": expected["logits"][:, ::-1].copy()}, Tokens(None, None))
    found = comparison.metrics()["logits"]
    assert found["top1_agreement"] == 0
    assert found["regret_mean"] == pytest.approx((np.tanh(2.5) + 0) / 2, abs=1e-4)


def test_words_are_judged_at_masks_where_there_are_any() -> None:
    expected = original(Kind.FILL_MASK)
    everywhere_else = {"logits": np.where(swap_mask(), expected["logits"], -expected["logits"])}
    assert metrics(Kind.FILL_MASK, expected, everywhere_else)["logits"]["kl_mean"] == 0
    unmasked = Head(TASKS[Kind.FILL_MASK], HEADS[Kind.FILL_MASK], mask_id=None).compare()
    unmasked.add(expected, everywhere_else, tokens())
    assert unmasked.metrics()["logits"]["kl_mean"] > 1


def swap_mask() -> Array:
    ids = tokens().ids
    assert ids is not None
    return (ids == MASK)[..., None]
