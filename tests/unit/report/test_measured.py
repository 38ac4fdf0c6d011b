"""Times and accuracy go into a copy of the page, in their place, with the machine's name."""

from __future__ import annotations

import pytest

from edgeq.bundle.manifest import Manifest
from edgeq.report.html import report
from edgeq.report.measured import Accuracy, EncoderTime, encoder_times, with_accuracy, with_times

MACHINE = "some CPU <b>, 2 threads"


@pytest.fixture
def page(manifest: Manifest) -> str:
    return report(manifest)


def times():
    rows = [EncoderTime("cpu-int8", 1, 128, 4.0, 5.5, 0.4), EncoderTime("fp32", 1, 128, 10.0, None, 1.0)]
    return encoder_times(MACHINE, "fp32", rows, "cpu-int8")


def test_times_replace_the_words_on_how_to_get_them(page: str) -> None:
    measured = with_times(page, times())
    assert page.count('<section id="latency">') == measured.count('<section id="latency">') == 1
    assert "edgeq bench BUNDLE --report" in page
    assert "edgeq bench BUNDLE --report" not in measured
    for fact in ("4.0 ms", ">5.5<", ">0.40x<", ">10.0<", "some CPU &lt;b&gt;"):
        assert fact in measured
    assert "<b>, 2 threads" not in measured


def test_everything_else_stays(page: str) -> None:
    before, _, after = page.partition('<section id="latency">')
    measured = with_times(page, times())
    assert measured.endswith(after.partition("</section>")[2])
    assert measured.startswith(before[: before.index('<div class="tiles">')])


def test_a_page_of_before_gets_the_section_at_its_end(page: str) -> None:
    older = page.replace('<section id="latency">', '<section id="other">')
    measured = with_times(older, times())
    assert measured.index('<section id="provenance">') < measured.index('<section id="latency">')
    assert measured.rstrip().endswith("</section></main></body></html>")


def test_accuracy_beside_the_original(page: str) -> None:
    values = {
        "accuracy": 0.9,
        "accuracy_low": 0.85,
        "accuracy_high": 0.95,
        "accuracy_original": 0.92,
        "accuracy_drop": 2,
    }
    measured = with_accuracy(page, [Accuracy("cpu-int8", "accuracy", 200, values, "passed")])
    assert "No labelled texts came" in page
    assert "No labelled texts came" not in measured
    for fact in ("0.9 (0.85 to 0.95)", ">0.92<", ">2<", ">200<", ">passed<"):
        assert fact in measured


def test_accuracy_without_an_original(page: str) -> None:
    values = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}
    measured = with_accuracy(page, [Accuracy("cpu-int8", "accuracy", 200, values, None)])
    assert "0.9 (0.85 to 0.95)" in measured
    assert "None" not in measured
