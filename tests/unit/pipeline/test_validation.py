"""Validation of bundles whose files are hashed but wrong: whoever made the bundle made the hashes too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.reader import Bundle
from edgeq.errors import ExitCode, IntegrityError, UsageError
from edgeq.exporters.library import TextReference
from edgeq.pipeline.executions import Execution
from edgeq.pipeline.explain import ExplainRequest, run_explain
from edgeq.pipeline.request import parse_gates
from edgeq.pipeline.tokenization import replay_prompts
from edgeq.pipeline.validation.report import ValidationReport
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.pipeline.validation.run import run_validation
from edgeq.pipeline.validation.table import JUDGING
from edgeq.samples import Sample, Text, as_samples
from edgeq.tasks import Mode
from edgeq.types import Feeds, Outputs, Verification

Sign: TypeAlias = Callable[..., None]


@pytest.fixture
def sign(mutate_bundle: ModuleType) -> Sign:
    """`sign(bundle)`, after a change of its manifest where one is given."""

    def write(bundle: Path, *edits: Callable[[Any], object]) -> None:
        for edit in edits:
            mutate_bundle.change_json("edgeq.json", edit)(bundle)
        mutate_bundle.sign(bundle)

    return write


def validate(bundle: Path, **options: Any) -> ValidationReport:
    # The tiny bundle records the outputs of both variants, and one output of the original.
    return run_validation(ValidationRequest(bundle, variants=("cpu-fp32",), **options))


def change_npz(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


def test_the_texts_give_the_recorded_token_ids(tiny_bundle: Path) -> None:
    report = validate(tiny_bundle)
    assert report.passed and report.failures == []
    assert report.to_json()["tokenization"] == {"cases": 1, "different": []}


def test_a_bundle_of_format_1_0_is_validated(first_format: Path) -> None:
    assert validate(first_format).passed


def test_another_tokenizer_fails_validation(tiny_bundle: Path, sign: Sign) -> None:
    path = tiny_bundle / "tokenizer/tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    path.write_text(json.dumps(document))
    sign(tiny_bundle)
    report = validate(tiny_bundle)
    assert not report.passed and report.failures == ["token ids of case-000"]
    # The tensors are still those of the model: only the first stage differs.
    assert all(gate.passed for variant in report.variants for gate in variant.gates)


def test_texts_cut_for_a_static_variant_are_cut_again(tiny: Any, tiny_bundle: Path, sign: Sign) -> None:
    feeds = tiny.preprocessor(6)(as_samples(["the cat sat", "a dog ran the cats"]))
    path = tiny_bundle / "golden/case-000.npz"
    change_npz(path, lambda arrays: arrays.update({f"inputs/{name}": feed for name, feed in feeds.items()}))
    sign(tiny_bundle)
    report = validate(tiny_bundle)
    assert report.tokenization is not None and report.tokenization.passed


@pytest.mark.parametrize(
    ("name", "shape"),
    [("reference/sentence_embedding", (2, 3)), ("outputs/cpu-fp32/sentence_embedding", (1, 4))],
)
def test_recorded_outputs_of_another_shape(
    tiny_bundle: Path, name: str, shape: tuple[int, ...], sign: Sign
) -> None:
    change_npz(tiny_bundle / "golden/case-000.npz", lambda arrays: arrays.update({name: np.zeros(shape)}))
    sign(tiny_bundle)
    with pytest.raises(IntegrityError, match="case-000` holds `sentence_embedding` of shape"):
        validate(tiny_bundle)


def test_a_recorded_nan_fails_its_tolerance(tiny_bundle: Path, sign: Sign) -> None:
    name = "outputs/cpu-fp32/sentence_embedding"
    change_npz(
        tiny_bundle / "golden/case-000.npz", lambda arrays: arrays.update({name: arrays[name] * np.nan})
    )
    sign(tiny_bundle)
    assert validate(tiny_bundle).failures == ["cpu-fp32 sentence_embedding max_abs"]


def test_a_gate_on_what_is_not_measured(tiny_bundle: Path, sign: Sign) -> None:
    sign(tiny_bundle, lambda document: document["gates"][0].update(metric="charm"))
    with pytest.raises(IntegrityError, match="bounds charm of `sentence_embedding`") as caught:
        validate(tiny_bundle)
    assert caught.value.hint is None


def test_a_gate_of_another_kind_says_that_old_bundles_have_to_be_made_again(
    tiny_bundle: Path, sign: Sign
) -> None:
    sign(tiny_bundle, lambda document: document["gates"][0].update(metric="rank_correlation"))
    with pytest.raises(IntegrityError, match="bounds rank_correlation of") as caught:
        validate(tiny_bundle)
    assert caught.value.hint is not None and "has to be exported again" in caught.value.hint


def test_requirements_are_free_form(tiny_bundle: Path, sign: Sign) -> None:
    sign(tiny_bundle, lambda document: document["variants"][0].update(requirements={"abi": 5}))
    assert validate(tiny_bundle).passed


def test_a_gate_this_task_does_not_have_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="does not have"):
        validate(tiny_bundle, gates=parse_gates(["top1_agreement>=0.5"]))


def test_a_gate_that_language_models_do_not_have_is_refused_before_anything_runs(
    tiny_bundle: Path, sign: Sign
) -> None:
    sign(tiny_bundle, lambda document: document["source"].update(task="text-generation"))
    with pytest.raises(UsageError, match="does not have"):
        validate(tiny_bundle, gates=parse_gates(["score_error_mean<=0.1"]))


def test_every_mode_has_a_judge() -> None:
    assert set(JUDGING) == set(Mode)


@pytest.mark.parametrize("content", [b"{}", b"\xff", b"[" * 100_000, b'{"version": 1, "layers": [{}]}'])
@pytest.mark.parametrize("name", ["plan.json", "sensitivity.json"])
def test_explain_refuses_malformed_files(tiny_bundle: Path, name: str, content: bytes, sign: Sign) -> None:
    plan = {"equalizations": [], "linears": [], "embeddings": [], "settings": {}}
    (tiny_bundle / "plan.json").write_text(json.dumps(plan))
    (tiny_bundle / name).write_bytes(content)
    sign(tiny_bundle)
    with pytest.raises(IntegrityError, match=f"`{name}` of .* cannot be read"):
        run_explain(ExplainRequest(tiny_bundle))


def test_groups_of_batches_keep_their_order() -> None:
    """A phone gets several batches at once; what comes back is in order, and nothing is run ahead."""
    sizes = []

    def run(batches: Any) -> list[Outputs]:
        sizes.append(len(batches))
        return [{"out": feeds["x"]} for feeds in batches]

    batches: list[Feeds] = [{"x": np.array(number)} for number in range(7)]
    outputs = Execution("adb", Verification.EXECUTED, {}, run, group=3).outputs(batches)
    assert int(next(outputs)["out"]) == 0 and sizes == [3]
    assert [int(found["out"]) for found in outputs] == [1, 2, 3, 4, 5, 6] and sizes == [3, 3, 1]


def test_labels_without_an_original_are_reported_with_bounds(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(f"{i % 5}\tthe cat\t{'a dog ' * (i % 5 + 1)}" for i in range(25)))
    report = validate(tiny_bundle, labels=path)
    found = report.variants[0].outputs["sentence_embedding"]
    assert report.passed and found["spearman_low"] <= found["spearman"] <= found["spearman_high"]
    assert "spearman_original" not in found


@pytest.mark.parametrize("against", [None, "no-such-original"])
@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("token-classification", "labels belong to words"),
        ("question-answering", "judged by its text"),
        ("fill-mask", "--against on texts with masks"),
    ],
)
def test_labels_for_a_kind_that_has_no_metric_of_them_are_refused_first(
    task: str,
    reason: str,
    against: str | None,
    tiny_bundle: Path,
    tmp_path: Path,
    sign: Sign,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a golden case is replayed or the original is looked for; the file need not even be there."""
    sign(tiny_bundle, lambda document: document["source"].update(task=task))
    monkeypatch.setattr(Bundle, "golden_cases", lambda _: pytest.fail("work began"))
    with pytest.raises(UsageError, match=reason) as caught:
        validate(tiny_bundle, labels=tmp_path / "none.tsv", against=against)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(("threshold", "passed"), [(-100.0, True), (100.1, False)])
def test_a_bundle_that_promises_a_labelled_metric_is_held_to_it(
    threshold: float, passed: bool, tiny_bundle: Path, tmp_path: Path, sign: Sign
) -> None:
    def promise(document: dict[str, Any]) -> None:
        document["gates"].append(document["gates"][0] | {"metric": "spearman", "threshold": threshold})

    sign(tiny_bundle, promise)
    assert validate(tiny_bundle).passed, "without labels there is nothing to hold it to"
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(f"{i % 5}\tthe cat\t{'a dog ' * (i % 5 + 1)}" for i in range(25)))
    assert validate(tiny_bundle, labels=path).passed is passed


@pytest.mark.parametrize(("lines", "passed"), [(59, False), (60, True)])
def test_labelled_texts_decide_where_they_can_and_leave_it_to_the_floors_elsewhere(
    lines: int, passed: bool, tiny: Any, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's vectors point the other way: all cosines between texts are the same, the floor is broken."""

    def turned(sample: Sample) -> Outputs:
        feeds = tiny.preprocessor()([sample])
        return {"sentence_embedding": -tiny.expected_embedding(feeds["input_ids"], feeds["attention_mask"])}

    original = TextReference("a stand-in, from text", turned)
    monkeypatch.setattr("edgeq.pipeline.forward.against_original.open_original", lambda *_: original)
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(f"{i % 5}\tthe cat\t{'a dog ' * (i % 5 + 1)}" for i in range(lines)))
    report = validate(tiny_bundle, against="original", labels=path)
    document = report.to_json()["variants"][0]
    said = "59 labelled texts do not decide" in " ".join(document["notices"])
    assert report.passed is passed and said is not passed
    assert document["labelled"]["verdict"] == ("passed" if passed else "undecided")
    assert report.failures == ([] if passed else ["cpu-fp32 sentence_embedding cosine_mean"])


def fails(sign: Sign, bundle: Path, *gates: dict[str, Any]) -> bool:
    """With the bundle's gate replaced by these, of which each names what differs."""

    def demand(document: dict[str, Any]) -> None:
        document["gates"] = [document["gates"][0] | gate for gate in gates]

    sign(bundle, demand)
    return not validate(bundle).passed


def test_default_floors_do_not_judge_golden_cases_that_have_bounds_of_their_own(
    tiny_bundle: Path, sign: Sign
) -> None:
    floor = {"threshold": 1.5, "derived_from": "default floor for fp32"}
    own = {"metric": "golden_cosine_mean", "threshold": 0.5}
    assert not fails(sign, tiny_bundle, floor | {"metric": "cosine_p01"})
    assert fails(sign, tiny_bundle, floor | {"metric": "cosine_mean"})
    assert not fails(sign, tiny_bundle, floor | {"metric": "cosine_mean"}, own)
    assert fails(sign, tiny_bundle, own | {"threshold": 1.5})


def test_what_a_user_asked_for_judges_golden_cases(tiny_bundle: Path, sign: Sign) -> None:
    own = {"metric": "golden_cosine_mean", "threshold": 0.5}
    for metric in ("cosine_mean", "cosine_p01"):
        asked = {"metric": metric, "threshold": 1.5, "derived_from": "--gate"}
        assert fails(sign, tiny_bundle, asked, own)


def damage_graph(mutate_bundle: ModuleType, bundle: Path) -> None:
    """Its embedding is NaN whatever the text."""

    def nan(graph: Any) -> None:
        import onnx

        node = next(item for item in graph.node if "sentence_embedding" in item.output)
        node.output[0] = "undamaged"
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32("nan"), "nan"))
        graph.node.append(onnx.helper.make_node("Add", ["undamaged", "nan"], ["sentence_embedding"]))

    # The support function wants the only graph there is.
    (bundle / "model/nnapi-fp32").rename(bundle / "aside")
    mutate_bundle.change_graph(nan)(bundle)
    (bundle / "aside").rename(bundle / "model/nnapi-fp32")


def drop_bounds(document: dict[str, Any]) -> None:
    document["gates"] = []
    for case in document["golden"]:
        case["tolerances"] = []


def test_nan_fails_where_a_bundle_bounds_nothing(
    tiny_bundle: Path, sign: Sign, mutate_bundle: ModuleType
) -> None:
    damage_graph(mutate_bundle, tiny_bundle)
    sign(tiny_bundle, drop_bounds)
    assert validate(tiny_bundle).failures == ["cpu-fp32 sentence_embedding max_abs"]


def test_a_bundle_that_bounds_nothing_says_so(tiny_bundle: Path, sign: Sign) -> None:
    def notices() -> str:
        (variant,) = validate(tiny_bundle).to_json()["variants"]
        return " ".join(variant["notices"])

    assert "`sentence_embedding`" not in notices() and "nothing bounds `last_hidden_state`" in notices()
    sign(tiny_bundle, drop_bounds)
    assert "nothing bounds `sentence_embedding` of cpu-fp32" in notices()


@pytest.mark.parametrize(
    ("shift", "placement", "said"), [(0.1, {}, True), (0.1, {"can_saturate": []}, False), (0.0, {}, False)]
)
def test_a_failure_says_where_other_kernels_may_have_recorded(
    shift: float,
    placement: dict[str, Any],
    said: bool,
    tiny_bundle: Path,
    sign: Sign,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeq.pipeline.validation.notices.saturating_in", lambda model: ["query", "key"])
    change_npz(tiny_bundle / "golden/case-000.npz", lambda a: a.update({OUTPUT: a[OUTPUT] + shift}))
    sign(tiny_bundle, lambda document: document["variants"][0].update(placement=placement))
    report = validate(tiny_bundle)
    notices = " ".join(report.to_json()["variants"][0]["notices"])
    assert report.passed is (shift == 0)
    assert ("2 layers can saturate (first `query`)" in notices) is said


OUTPUT, IDS = "outputs/cpu-fp32/sentence_embedding", "inputs/input_ids"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(positions=np.array([], np.int64)), "`positions` is empty"),
        (lambda a: a.update(positions=np.array([0, 99])), "go from 0 to 99, expected 0 to 7"),
        (lambda a: a.update(positions=np.array([-1])), "go from -1 to -1"),
        (lambda a: a.update(positions=np.array([0.5])), "positions` is float64"),
        (lambda a: a.update(positions=np.array([[0]])), r"positions` is int64 \[1, 1\]"),
        (lambda a: a.update({OUTPUT: a[OUTPUT][:0]}), r"`outputs/cpu-fp32/.*` of shape \[0, 4\] is empty"),
        (lambda a: a.pop(OUTPUT), "bounds max_abs of `sentence_embedding` of `cpu-fp32`, which it does not"),
        (lambda a: [a.pop(key) for key in list(a) if key.startswith("outputs")], "outputs of no variant"),
        (
            lambda a: a.update({"reference/sentence_embedding": np.array([["a"]])}),
            "has the type <U1, expected numbers",
        ),
        (lambda a: a.update({IDS: np.int64(3)}), r"`input_ids` is int64 \[\]"),
        (lambda a: a.update({IDS: a[IDS].astype(float)}), "`input_ids` is float64"),
        (lambda a: a.update({"inputs/attention_mask": a[IDS] * 0}), "no recorded token is real"),
    ],
)
def test_a_golden_case_that_is_none_is_refused(
    change: Callable[[dict[str, np.ndarray]], object], message: str, tiny_bundle: Path, sign: Sign
) -> None:
    change_npz(tiny_bundle / "golden/case-000.npz", change)
    sign(tiny_bundle)
    with pytest.raises(IntegrityError, match=message):
        validate(tiny_bundle)


def test_golden_cases_without_an_original_are_refused(tiny_bundle: Path, sign: Sign) -> None:
    change_npz(tiny_bundle / "golden/case-000.npz", lambda a: a.pop("reference/sentence_embedding"))
    sign(tiny_bundle)
    with pytest.raises(IntegrityError, match="no output of `cpu-fp32` is in all of its golden cases"):
        validate(tiny_bundle)


def test_a_golden_prompt_without_ids_is_refused(tiny: Any) -> None:
    with pytest.raises(IntegrityError, match="`prefill-00` holds texts, and no `input_ids`"):
        replay_prompts(tiny.preprocessor(), [GoldenCase("prefill-00", (Text("a text"),), {}, {})])


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"", b"PK\x05\x06" + b"\0" * 17])
def test_a_golden_file_that_is_no_archive(content: bytes, tiny_bundle: Path, sign: Sign) -> None:
    (tiny_bundle / "golden/case-000.npz").write_bytes(content)
    sign(tiny_bundle)
    with pytest.raises(IntegrityError, match="the golden cases cannot be read"):
        validate(tiny_bundle)
