"""Tolerances follow from what twins were seen to do, case by case, and catch what goes beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.comparison import judge
from edgeq.errors import ModelError
from edgeq.pipeline.drift import case_drifts, worst
from edgeq.pipeline.golden_metrics import is_golden
from edgeq.pipeline.kernel_noise import (
    FLOAT32_FLOOR,
    MARGIN,
    QUALITY_MARGIN,
    RMS_MARGIN,
    SEEDS,
    STEADY_VALUES,
    CaseNoise,
    Noise,
    case_tolerances,
    float16_step,
    measure_noise,
    noise_gates,
)
from edgeq.progress import SilentStage
from edgeq.samples import as_samples
from edgeq.targets.target import Twin
from edgeq.tasks import TASKS, Head, Kind
from edgeq.types import Feeds, Outputs, Role, TensorSpec

SPEC = TensorSpec("e", "float32", ("batch", 8), Role.SENTENCE_EMBEDDING)
HEAD = Head(TASKS[Kind.EMBEDDING], (SPEC,))
RNG = np.random.default_rng(0)
ROWS = [RNG.normal(size=(1, 8)).astype(np.float32) for _ in range(5)]


def cases() -> list[GoldenCase]:
    feeds = [{"input_ids": np.full((1, 3), i), "attention_mask": np.ones((1, 3), np.int64)} for i in range(5)]
    return [
        GoldenCase(f"c{i}", (), feeds[i], {"e": ROWS[i] + np.float32(0.01)}, {"v": {"e": ROWS[i]}})
        for i in range(5)
    ]


@dataclass
class Fake:
    """A session whose twins move each case by a given amount."""

    moves: list[list[float]]
    most_cases: int | None = None
    kinds: list[str] = field(default_factory=lambda: ["draws of last bits"])
    louder: dict[int, list[list[float]]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def twins(self, seeds: int) -> Iterator[Twin]:
        self.asked.append(seeds)
        for index, moves in enumerate(self.moves):
            kind = self.kinds[min(index, len(self.kinds) - 1)]
            yield Twin(kind, lambda batches, moves=moves: self.run(batches, moves), self.most_cases)

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        moves = self.louder.get(last_bits, [])
        for each in moves:
            yield Twin(f"draws of {last_bits} last bits", lambda batches, each=each: self.run(batches, each))

    def run(self, batches: list[Feeds], moves: list[float]) -> list[Outputs]:
        places = [int(feeds["input_ids"][0, 0]) for feeds in batches]
        return [{"e": ROWS[place] * np.float32(1) + np.float32(moves[place])} for place in places]


def noise_of(session: Any) -> Noise:
    return measure_noise(session, "v", HEAD, cases(), SilentStage())["e"]


def test_each_case_tolerates_its_own_noise_with_a_margin() -> None:
    found = noise_of(Fake([[0.001, 0.002, 0.003, 0.004, 0.005], [0.002, 0.001, 0.002, 0.002, 0.002]]))
    bounds = [found.tolerances("v", "e", f"c{i}")[0].threshold for i in range(5)]
    floor = FLOAT32_FLOOR * max(float(np.abs(row).max()) for row in ROWS)
    expected = [MARGIN * moved + floor for moved in (0.002, 0.002, 0.003, 0.004, 0.005)]
    assert bounds == pytest.approx(expected, rel=1e-3)


def test_a_case_that_a_draw_did_not_move_gets_the_median_s_noise() -> None:
    found = noise_of(Fake([[0.0, 0.002, 0.003, 0.004, 0.005], [0.001, 0.002, 0.003, 0.004, 0.005]]))
    assert not found.cases["c0"].is_steady and found.cases["c1"].is_steady
    lowest, middle = (found.tolerances("v", "e", name)[0].threshold for name in ("c0", "c3"))
    assert lowest == middle


def test_where_few_cases_move_larger_noise_shows_what_a_code_does() -> None:
    rarely = [[0.0] * 5, [0.0, 0.0, 0.004, 0.0, 0.0]]
    quiet = noise_of(Fake(rarely, louder={16: rarely, 64: rarely}))
    assert len({quiet.tolerances("v", "e", f"c{i}")[0].threshold for i in range(5)}) == 1
    assert quiet.tolerances("v", "e", "c0")[0].threshold > MARGIN * 0.004
    loud = noise_of(Fake(rarely, louder={16: [[0.002] * 5] * 2, 64: [[0.1] * 5]}))
    assert loud.sources == ("2 draws of last bits", "2 draws of 16 last bits")
    bounds = [loud.tolerances("v", "e", f"c{i}")[0].threshold for i in (0, 2)]
    assert bounds == pytest.approx([MARGIN * 0.002, MARGIN * 0.004], rel=0.02)
    assert loud.rms >= 0.001


def test_steady_draws_need_no_larger_noise() -> None:
    found = noise_of(Fake([[0.002] * 5] * 2, louder={16: [[1.0] * 5]}))
    assert found.sources == ("2 draws of last bits",)


@pytest.mark.parametrize(("values", "margin"), [(STEADY_VALUES, RMS_MARGIN), (STEADY_VALUES - 1, MARGIN)])
def test_bounds_of_all_cases_together(values: int, margin: float) -> None:
    found = replace(noise_of(Fake([[0.002] * 5])), values=values)
    rms, mean, quality = found.gates("v", "e")
    assert rms.threshold == pytest.approx(margin * found.rms + FLOAT32_FLOOR, rel=1e-3)
    assert mean.threshold == pytest.approx(MARGIN * found.mean + FLOAT32_FLOOR, rel=1e-3)
    assert (quality.metric, quality.op, quality.passed) == ("golden_cosine_mean", ">=", True)
    assert quality.threshold < quality.value < 1
    assert all(is_golden(gate) for gate in (rms, mean, quality))


def test_one_number_has_the_widest_margin() -> None:
    *_, quality = noise_of(Fake([[0.002] * 5, [0.03] * 5])).gates("v", "e")
    spread = float(quality.derived_from.split(" of it kernel noise")[0].split()[-1])
    assert quality.value - quality.threshold == pytest.approx(QUALITY_MARGIN * spread, rel=0.05)


@pytest.mark.parametrize(("steady", "times"), [(8, 1), (9, 2)])
def test_few_channels_are_drawn_more_often(steady: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.pipeline.kernel_noise.STEADY_VALUES", steady)
    session = Fake([[0.002] * 5])
    noise_of(session)
    assert session.asked == [times * SEEDS]


def test_a_float16_output_may_move_by_its_own_step() -> None:
    """A draw that moved small values only says nothing of what the next one does to the largest."""
    assert float16_step(np.array([4.07421875, -0.25], np.float32)) == 2**-8
    assert float16_step(np.array([4.0742, -0.25], np.float32)) == 0.0
    assert float16_step(np.array([1e6], np.float32)) == 0.0
    found = noise_of(Fake([[0.0001] * 5]))
    stepped = replace(found, cases={"c0": replace(found.cases["c0"], step=2**-8)})
    assert found.tolerances("v", "e", "c0")[0].threshold < 0.001
    assert stepped.tolerances("v", "e", "c0")[0].threshold == pytest.approx(MARGIN * 2**-8, rel=0.01)


def test_the_undamaged_passes_and_what_moves_more_does_not() -> None:
    session = Fake([[0.002] * 5])
    mine, noise = cases(), {"v": {"e": replace(noise_of(session), values=STEADY_VALUES)}}

    def verdicts(moves: list[float]) -> list[bool | None]:
        outputs = session.run([case.feeds for case in mine], moves)
        drifts = case_drifts([SPEC], mine, [case.outputs["v"] for case in mine], outputs)["e"]
        own = [
            judge(gate, drift.metrics()).passed
            for case, drift in zip(mine, drifts, strict=True)
            for gate in case_tolerances(case, noise)
        ]
        rms = next(gate for gate in noise_gates(noise) if gate.metric == "drift_rms")
        return [*own, judge(rms, worst(drifts).metrics()).passed]

    assert all(verdicts([0.0] * 5)) and all(verdicts([0.002] * 5))
    assert not all(verdicts([0.0, 0.0, 0.005, 0.0, 0.0]))
    # No case is beyond its own bound, but all together are.
    together = verdicts([0.0035] * 5)
    assert all(together[:-1]) and not together[-1]


def test_a_lost_cosine_has_the_square_of_the_margin() -> None:
    """It grows with the square of the distance: twice as far away is four times as much."""
    found = noise_of(Fake([[0.02] * 5]))
    _, cosine = found.tolerances("v", "e", "c0")
    lost = found.cases["c0"].cosine_loss
    assert cosine.threshold == pytest.approx(1 - MARGIN**2 * lost - FLOAT32_FLOOR, abs=1e-6) and lost > 1e-5
    assert cosine.derived_from.endswith(f"times {MARGIN**2:g}")


def test_a_twin_may_run_the_first_cases_only() -> None:
    found = noise_of(
        Fake([[0.002] * 5, [0.004] * 5], most_cases=2, kinds=["draws of last bits", "ARM64 kernels"])
    )
    assert found.cases["c0"].max_abs == pytest.approx(0.004, rel=1e-3)
    assert found.cases["c4"].max_abs == 0 and len(found.quality) == 1
    assert found.mean == 0  # of a few cases it would be no smaller than one of them
    assert found.sources == ("draws of last bits", "ARM64 kernels")


def test_without_twins_float_noise_alone_is_tolerated() -> None:
    found = noise_of(Fake([]))
    assert found.tolerances("v", "e", "c0")[0].threshold == pytest.approx(
        FLOAT32_FLOOR * found.scale, rel=1e-3
    )


@pytest.mark.parametrize("place", [0, 4])
def test_nan_fails_the_export(place: int) -> None:
    moves = [0.001] * 5
    moves[place] = math.nan
    with pytest.raises(ModelError, match="`v` returns NaN or infinite values in `e`"):
        noise_of(Fake([[0.001] * 5, moves]))


def test_single_numbers_have_no_cosine_bound() -> None:
    noise = Noise(
        {"c": CaseNoise(0.1, 0.0)}, 0.01, 0.01, 1.0, False, [{"n": 1.0}], ("thread counts",), (), 9, 1
    )
    assert [gate.metric for gate in noise.tolerances("v", "e", "c")] == ["max_abs"]
    assert [gate.metric for gate in noise.gates("v", "e")] == ["drift_rms", "drift_mean"]
    assert [gate.metric for gate in replace(noise, has_cosine=True).tolerances("v", "e", "c")][
        1
    ] == "cosine_min"


def test_real_sessions_have_the_twins_that_the_docs_name(exported: Any, tmp_path: Any) -> None:
    import onnx_ir as ir

    from edgeq.quantize.recipes import load_recipe
    from edgeq.targets.cpu import TARGET

    model = exported("bert", "sentence-embedding")
    ir.save(model.canonical.model, tmp_path / "m.onnx")
    [spec] = TARGET.variants(load_recipe("fp32"))
    session = TARGET.open(spec, tmp_path / "m.onnx", model.canonical)
    kinds = []
    for twin in session.twins(SEEDS):
        kinds.append(twin.kind)
        if twin.kind != "ARM64 kernels":
            [found] = twin.run([model.preprocessor(as_samples(["a text"]))])
            assert found["sentence_embedding"].shape[0] == 1
    assert kinds[:4] == ["thread counts"] * 2 + ["optimization levels"] * 2
    assert kinds[4 : 4 + SEEDS] == ["draws of last bits"] * SEEDS
    assert kinds[4 + SEEDS :] in ([], ["ARM64 kernels"])
