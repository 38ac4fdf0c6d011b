"""The report as a phone and a desktop show it: nothing outside the screen, no sideways scroll, no console error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Manifest, Metric, PostprocessKind, PostprocessStep
from edgeq.quantize.plan import WeightDecision
from edgeq.report.examples import Recorded
from edgeq.report.html import report
from edgeq.report.markup import page as page_of
from edgeq.report.measured import EncoderTime, encoder_times, with_times
from edgeq.report.style import CSS
from edgeq.samples import as_samples
from edgeq.types import Task, Verification

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from chromium import Chromium, find_chromium

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs a Chromium (apt-get install chromium)")
WIDTHS = (360, 1080, 1440)
LONG = "encoder.layers.11.attention.self.query_key_value_projection_with_a_long_name"
CLASSIFIER_METRICS = (
    "top1_agreement", "kl_mean", "kl_p99", "probability_error_mean", "probability_error_p99", "regret_mean",
    "cosine_mean", "cosine_p01", "cosine_min", "relative_error_mean", "relative_error_p95", "sqnr_db", "max_abs",
    "batch_invariance_min",
)  # fmt: skip
TEXTS = ("ok", "Out of office until 7 January. In urgent cases please call reception.", "word" * 60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    assert PROGRAM is not None
    browser = Chromium(PROGRAM)
    yield browser
    browser.close()


@pytest.fixture
def classifier(manifest: Manifest) -> Manifest:
    """As wide as a real one gets: every metric of its kind, long labels."""
    labels = ("contradiction_with_a_long_name", "entailment", "neutral")
    metrics = tuple(
        Metric(variant.id, name, 0.9987654321, 128, "onnxruntime 1.32.0, x86-64", Verification.EXECUTED_OTHER_ARCH,
               "logits")
        for variant in manifest.variants
        for name in CLASSIFIER_METRICS
    )  # fmt: skip
    source = replace(manifest.source, task=Task.SEQUENCE_CLASSIFICATION, labels=labels)
    steps = tuple(
        PostprocessStep(kind, ("logits",)) for kind in (PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL)
    )
    gate = replace(
        manifest.gates[0],
        output="logits",
        derived_from="measured 0.998 on 96 held-out samples; twice its error",
    )
    return replace(manifest, source=source, postprocess=steps, metrics=metrics, gates=(gate,) * 4)


def full_page(manifest: Manifest, plan, trials, coverage) -> str:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 3)).astype(np.float32)
    ids = np.ones((3, 4), np.int64)
    golden = GoldenCase(
        "batch", tuple(as_samples(TEXTS)), {"input_ids": ids, "attention_mask": ids}, {"logits": logits},
        {variant.id: {"logits": logits + 0.01} for variant in manifest.variants},
    )  # fmt: skip
    linear = replace(
        plan.linears[0], name=LONG, largest_pair=127, rounding="error-feedback", bias_shift=np.ones(4)
    )
    weight = WeightDecision(LONG, "w0", 4, 32, True, "gptq", 4.5, 0.08, 0.031, ("fell back to rounding",))
    plan = replace(plan, linears=(linear, *plan.linears[1:]), weights=(weight,), fp16=(LONG,))
    cosines = {variant.id: {"logits": rng.uniform(0.99, 1, 96).tolist()} for variant in manifest.variants}
    text = report(
        manifest, plan, trials, replace(coverage, clipping={LONG: 0.01}), fp32_bytes=90_000_000, cosines=cosines,
        recorded=Recorded([golden], SimpleNamespace(id_to_token=str, special_token_ids={})),
    )  # fmt: skip
    times = [
        EncoderTime(name, texts, 128, 123.4, 150.1, 0.55)
        for name in ("cpu-int8", "nnapi-int8", "fp32.onnx")
        for texts in (1, 8)
    ]
    return with_times(
        text, encoder_times("AMD EPYC 9V74 80-Core Processor (x86-64)", "fp32.onnx", times, "cpu-int8")
    )


def look(browser: Chromium, folder: Path, text: str, width: int) -> tuple[list[str], list[str]]:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.open(path, width)
    return browser.overflows(), browser.console_errors()


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_on_the_screen(browser, classifier, plan, trials, coverage, tmp_path, width) -> None:
    text = full_page(classifier, plan, trials, coverage)
    assert look(browser, tmp_path, text, width) == ([], [])
    assert browser.evaluate("document.querySelectorAll('section').length") >= 12
    assert browser.evaluate("document.querySelectorAll('svg text').length") > 10


@pytest.mark.parametrize("width", WIDTHS)
def test_names_without_a_break(browser, hostile, hostile_plan, trials, coverage, tmp_path, width) -> None:
    long = replace(hostile, name="n" * 300, target="t" * 80)
    text = report(long, hostile_plan, trials, coverage, fp32_bytes=1)
    assert look(browser, tmp_path, text, width) == ([], [])


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<div style="width: 2000px">x</div>', "the page is 2"),
        ('<div style="overflow-x: auto"><div style="width: 2000px">x</div></div>', "scrolls sideways"),
        ('<section><span style="white-space: nowrap">' + "x " * 900 + "</span></section>", "outside"),
        ('<svg viewBox="0 0 9600 100"><text x="0" y="50">small</text></svg>', "unreadable"),
        ('<svg height="30"><text x="99%" y="20">a long label</text></svg>', "cut off"),
        (
            '<svg height="30"><text x="0" y="20">one</text><text x="4" y="20">two</text></svg>',
            "on each other",
        ),
    ],
)
def test_the_check_would_see_it(browser, tmp_path, body: str, complaint: str) -> None:
    text = page_of("bad", CSS).replace("<main>", f"<main>{body}")
    found, _ = look(browser, tmp_path, text, 1440)
    assert any(complaint in item for item in found), found


def test_the_console_would_be_heard(browser, tmp_path) -> None:
    """A script is what the page's own policy refuses, aloud."""
    text = page_of("bad", CSS).replace("<main>", "<main><script>document.title = 'ran'</script>")
    _, errors = look(browser, tmp_path, text, 1440)
    assert any("Content Security Policy" in error for error in errors)
    assert browser.evaluate("document.title") == "bad"
