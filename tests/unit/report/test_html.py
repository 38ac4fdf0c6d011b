"""report.html is one inert document that shows the evidence; hostile names stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgeq.bundle.manifest import Manifest, Status
from edgeq.quantize.coverage import Coverage
from edgeq.quantize.plan import QuantizationPlan, WeightDecision
from edgeq.report.html import report, write_report
from edgeq.report.markup import Html, el, table, text

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "nav", "section", "h1", "h2", "h3", "p", "b",
    "a", "span", "div", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
    "details", "summary", "svg", "rect", "line", "circle", "text",
}  # fmt: skip


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that elements close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.ids.add(value)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(manifest, plan, trials, coverage) -> str:
    cosines = {"cpu-int8": {"sentence_embedding": [0.997, 0.999]}}
    return report(manifest, plan, trials, coverage, fp32_bytes=90_000_000, cosines=cosines)


def test_same_arguments_same_bytes(page, manifest, plan, trials, coverage, tmp_path) -> None:
    cosines = {"cpu-int8": {"sentence_embedding": [0.997, 0.999]}}
    write_report(tmp_path, manifest, plan, trials, coverage, fp32_bytes=90_000_000, cosines=cosines)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_no_time_and_no_latency(page) -> None:
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\d\d:\d\d|\bms\b", Outline(page).text)


def test_inert(page) -> None:
    outline = Outline(page)
    assert outline.tags <= ALLOWED
    assert not any(name.startswith("on") for name in outline.attributes)
    assert all(link.startswith("#") and link[1:] in outline.ids for link in outline.links)
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert not re.search(r"https?://|@import|url\(", page)


def test_hostile_words_stay_text(hostile, hostile_plan, trials, coverage) -> None:
    bad = hostile.name
    clipped = replace(coverage, clipping={bad: 0.5})
    tried = (*trials, replace(trials[0], setting=bad))
    page = report(hostile, hostile_plan, tried, clipped, fp32_bytes=1, cosines={bad: {bad: [0.5]}})
    outline = Outline(page)
    assert outline.tags <= ALLOWED
    assert not any(name.startswith("on") for name in outline.attributes)
    assert "<script" not in page
    assert "<img" not in page
    assert "alert('1')" in outline.text


def test_the_check_would_see_an_escape_that_is_missing(hostile) -> None:
    variant = replace(hostile.variants[0], id=Html("<script>x</script>"))
    assert "script" in Outline(report(replace(hostile, variants=(variant,)))).tags - ALLOWED


def test_text_that_utf8_cannot_hold(manifest, tmp_path) -> None:
    source = replace(manifest.source, labels=("\ud800",), architecture="bert\u202e\x00")
    write_report(tmp_path, replace(manifest, source=source))
    assert "\u202e" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "fact",
    [
        "gates passed",
        "0.998343",
        "0.996710",
        "executed-other-arch",
        "1.00",
        "NNAPI takes 600 of 602 nodes in 2 pieces, the CPU the rest (predicted)",
        "99 % of the 602 operations of nnapi-int8, which NNAPI takes in 2 pieces; the CPU computes the rest",
        "Refused: Erf has no builder (2 times).",
        "alpha 0.75 0.1200 chosen",
        "no bias correction 0.1200 chosen",
        "95th percentile 24",
        "0.8 % of 256 samples are longer and were cut.",
        "1 of 2 tensors lose values at the ends of their range",
        "0.012 %",
        "encoder.layer.5.output.dense : excluded by the recipe",
        "encoder.layer.0.query -1.5 3",
        "encoder.layer.0.query/in encoder.layer.0.query a Mul 4 8",
        "2 rows, lowest 0.997000",
        "measured where the bundle was made",
        "deprecated since Android 15",
        "c9745ed1d9f2",
    ],
)
def test_shows(page, fact) -> None:
    assert fact in Outline(page).text


def test_chosen_trial_is_the_lowest_of_its_group(page) -> None:
    assert "alpha 0.5 0.2100 chosen" not in Outline(page).text
    assert Outline(page).text.count("chosen") == 3 + 1  # one per group, and the column of settings


def test_failed_bundle(manifest: Manifest) -> None:
    gate = replace(manifest.gates[0], value=0.5, passed=False)
    words = Outline(report(replace(manifest, status=Status.FAILED, gates=(gate,)))).text
    assert "below its gate" in words
    assert "gates passed" not in words
    assert "FAILED cpu-int8" in words


def test_sections_without_evidence_are_left_out(manifest: Manifest) -> None:
    bare = replace(manifest, metrics=(), gates=(), quantization=None)
    outline = Outline(report(bare))
    assert outline.ids == {"summary", "accuracy", "latency", "placement", "contract", "limits", "provenance"}


def test_weight_only_layers(manifest: Manifest, hostile: Manifest) -> None:
    kept = WeightDecision(
        "encoder.layer.0.query", "w0", 4, 32, True, "gptq", 4.5, 0.08, 0.031, ("fell back",)
    )
    table = WeightDecision(hostile.name, "w1", 8, -1, False, "rtn", 8.02, 0.004)
    plan = QuantizationPlan((), (), (), {"method": "weight-only"}, (kept, table), (hostile.name,))
    outline = Outline(report(manifest, plan))
    assert outline.tags <= ALLOWED
    assert "encoder.layer.0.query 4 32 gptq 4.50 0.0800 0.0310 fell back" in outline.text
    assert "8 channel rtn 8.02 0.0040" in outline.text
    assert "1 tensors" in outline.text
    assert "Settings" in outline.text


def test_nothing_cut_is_said(manifest: Manifest, coverage: Coverage) -> None:
    words = Outline(report(manifest, coverage=replace(coverage, truncated_share=0.0))).text
    assert "None of the 256 samples is longer than the model takes." in words
    assert "were cut" not in words


def test_no_clipping_is_said(manifest: Manifest, coverage: Coverage) -> None:
    words = Outline(report(manifest, coverage=replace(coverage, clipping={"a": 0.0}))).text
    assert "No value of the calibration data lies outside the ranges of the 1 quantized tensors." in words


def test_equal_outputs_have_a_chart_too(manifest: Manifest) -> None:
    """Float32 bundles: every cosine is 1, and an axis still needs an extent."""
    ones = tuple(
        replace(metric, value=1.0) for metric in manifest.metrics if metric.metric.startswith("cosine")
    )
    page = report(
        replace(manifest, metrics=ones, gates=()), cosines={"cpu-int8": {"sentence_embedding": [1.0, 1.0]}}
    )
    assert not re.search(r'="[^"]*\b(?:nan|inf)\b[^"]*"', page)


def test_elements_escape_text_and_attributes() -> None:
    assert el("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert el("rect", x=1, stroke_width=None) == '<rect x="1"/>'
    assert el("p", Html("<b>x</b>"), None) == "<p><b>x</b></p>"
    assert text("a\nb") == "a b"


def test_a_table_with_a_missing_cell_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["1"]])
