"""MODEL_CARD.md carries the manifest's facts, and nothing in it can become markup."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgeq.bundle.manifest import Manifest, Status
from edgeq.report.markdown import block, code, prose, table
from edgeq.report.model_card import model_card, write_model_card
from edgeq.types import Verification


def cells(card: str, first: str) -> list[list[str]]:
    """Table rows that start with a cell, split at the bars that are not escaped."""
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in card.splitlines() if line.startswith(f"| {first} |")
    ]
    return [[cell.strip() for cell in row] for row in rows]


def test_same_manifest_same_card(manifest: Manifest, tmp_path) -> None:
    write_model_card(tmp_path, manifest)
    assert (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card(manifest)
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\d\d:\d\d", model_card(manifest))


def test_every_number_has_its_n_level_and_environment(manifest: Manifest) -> None:
    rows = [row for row in cells(model_card(manifest), "`cpu-int8`") if row[-1] == "E1"]
    assert [row[3] for row in rows] == ["0.998343", "0.996710", "0.996642", "24.8", "0.0225"]
    assert {tuple(row[4:6]) for row in rows} == {("128", "executed-other-arch")}
    assert "- E1: onnxruntime 1.32.0, CPUExecutionProvider, x86-64, test CPU" in model_card(manifest)


def test_environments_are_told_apart(manifest: Manifest) -> None:
    moved = replace(manifest.metrics[0], environment="a phone", verification=Verification.EXECUTED)
    card = model_card(replace(manifest, metrics=(*manifest.metrics, moved)))
    assert "- E2: a phone" in card
    last = [row[-1] for row in cells(card, "`cpu-int8`") if re.fullmatch(r"E\d", row[-1])]
    assert last == ["E1"] * 5 + ["E2"]
    assert "No number in this bundle comes from a phone" not in card


def test_a_bundle_without_golden_cases_promises_none(manifest: Manifest) -> None:
    assert "Replay the golden vectors" in model_card(manifest)
    card = model_card(replace(manifest, golden=()))
    assert "holds no golden vectors" in card
    for promise in ("Replay", "replays", "golden cases", "--on arm64"):
        assert promise not in card


def test_contract_source_and_calibration(manifest: Manifest) -> None:
    card = model_card(manifest)
    for fact in (
        "| in | `attention_mask` | `float32` | `[1, 128]` | `attention_mask` |",
        "| in | `attention_mask` | `int64` | `[batch, sequence]` | `attention_mask` |",
        f"256 samples of texts.txt, seed 0, SHA-256 of the data `{'f' * 64}`",
        "`encoder.layer.5.output.dense`: excluded by the recipe",
        "licence of the source, which applies to this bundle too: apache-2.0",
        "revision: `c9745ed1d9f2`",
        "Refused: Erf has no builder (2 times).",
        "Predicted by rules: 600 nodes on NNAPI, 2 nodes on CPU, in 2 partitions.",
        "| `nnapi-int8` | Android API level | 29 or newer |",
    ):
        assert fact in card


def test_built_in_texts_are_named(manifest: Manifest) -> None:
    quantization = manifest.quantization
    assert quantization is not None
    assert quantization.calibration is not None
    built_in = replace(quantization, calibration=replace(quantization.calibration, source="built-in"))
    assert "256 samples of edgeq's built-in texts" in model_card(replace(manifest, quantization=built_in))
    assert "built-in" not in model_card(manifest)


def test_nnapi_caveats_only_with_nnapi(manifest: Manifest) -> None:
    assert "deprecated since Android 15" in model_card(manifest)
    assert "NNAPI" not in model_card(
        replace(manifest, variants=manifest.variants[:1], metrics=manifest.metrics[:5])
    )


def test_kotlin_uses_the_declared_types_and_options(manifest: Manifest) -> None:
    _, cpu, nnapi = model_card(manifest).split("```kotlin")
    assert "LongArray" in cpu.split("```")[0]
    assert "addNnapi" not in cpu.split("```")[0]
    nnapi = nnapi.split("```")[0]
    assert "FloatArray" in nnapi
    assert "OptLevel.BASIC_OPT" in nnapi
    assert "options.addNnapi()" in nnapi


def test_failed_bundle_says_so_first(manifest: Manifest) -> None:
    card = model_card(replace(manifest, status=Status.FAILED))
    assert card.index("below its quality gate") < card.index("## Variants")
    assert "below its quality gate" not in model_card(manifest)


def test_unknown_licence_is_not_passed_over(manifest: Manifest) -> None:
    card = model_card(replace(manifest, source=replace(manifest.source, license=None)))
    assert "not stated by the source" in card
    assert "license:" not in card


def test_local_paths_do_not_leave_the_machine(manifest: Manifest) -> None:
    for path in ("/home/someone/secret/my-model", "C:\\Users\\someone\\secret\\my-model"):
        card = model_card(replace(manifest, source=replace(manifest.source, model=path)))
        assert "my-model" in card
        assert "someone" not in card


def test_hostile_words_stay_words(hostile: Manifest) -> None:
    card = model_card(hostile)
    for outside in re.split(r"```.*?\n```", card, flags=re.DOTALL):
        without_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\[`|]", "", outside))
        for mark in ("<", "[x]("):
            assert not re.search(rf"(?<!\\){re.escape(mark)}", without_code), without_code
    assert "\n# &" not in card
    assert card.startswith("---\ntags: [edgeq]\n---\n")


def test_hostile_cells_do_not_add_columns(hostile: Manifest) -> None:
    lines = [line for line in model_card(hostile).splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    rules = [index for index, line in enumerate(lines) if set(line) <= set("| -:")]
    for start, end in zip(rules, [*rules[1:], len(lines) + 1], strict=True):
        assert len(set(widths[start - 1 : end - 1])) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-b_c 1.0", "a-b_c 1.0"),
        ("_a_ *b*", r"\_a\_ \*b\*"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("a\n\n| b", r"a \| b"),
        ("<b>&amp;", r"\<b\>\&amp;"),
    ],
)
def test_prose(text: str, expected: str) -> None:
    assert prose(text) == expected


def test_code_spans_hold_backticks_and_bars() -> None:
    assert code("a") == "`a`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert code("a|b") == r"`a\|b`"
    assert code("") == "`  `"


def test_a_line_cannot_close_its_block() -> None:
    assert block("sh", ["```", "rm"])[0] == "````sh"


def test_table_alignment() -> None:
    assert table(["a", "b>"], [["1", "2"]])[:2] == ["| a | b |", "| --- | ---: |"]
