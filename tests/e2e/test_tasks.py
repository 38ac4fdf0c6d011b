"""Whole bundles of heads whose cosine says nothing: exported, run, validated, and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest

from edgeq.cli import run_command_line as run
from edgeq.comparison import ONNX_DIFFERENCE
from edgeq.errors import ExitCode

FAST = ["--target", "android", "--variants", "cpu", "--seq-len", "32", "--calib-samples", "32", "--quiet"]


def export(model: Path, folder: Path, precision: str = "int8") -> Path:
    options = ["-o", str(folder / "bundle"), "--precision", precision, *FAST]
    assert run(["export", str(model), *options]) == ExitCode.OK
    return folder / "bundle"


@pytest.fixture(scope="module")
def scorer(trained_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained_model("score"), tmp_path_factory.mktemp("score"))


@pytest.fixture(scope="module")
def tagger(trained_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained_model("multi-label"), tmp_path_factory.mktemp("multi"), "fp32")


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    quiet = () if arguments[0] == "run" else ("--quiet",)
    code = run([*map(str, arguments), "--json", *quiet])
    return code, json.loads(capsys.readouterr().out)


def changed(model: Path, folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """A copy of a checkpoint with other weights: an original that a bundle was not made from."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


Damage: TypeAlias = Callable[[Path, Path, str, Any], Path]


@pytest.fixture
def damaged(mutate_bundle: ModuleType) -> Damage:
    """`damaged(bundle, folder, "Mul", 2)`: a copy whose logits go through one more node, signed again."""

    def damage(bundle: Path, folder: Path, name: str, value: Any) -> Path:
        def append(graph: Any) -> None:
            output = graph.output[0].name
            producer = next(node for node in graph.node if output in node.output)
            producer.output[list(producer.output).index(output)] = "undamaged"
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), "damage"))
            graph.node.append(onnx.helper.make_node(name, ["undamaged", "damage"], [output]))

        return Path(mutate_bundle.damaged(bundle, folder, mutate_bundle.change_graph(append)))

    return damage


def test_a_score_is_answered_as_it_is(scorer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = printed(capsys, "run", scorer, "--text", "a text", "--text", "one more text of words")
    assert code == ExitCode.OK
    assert [answer["score"] for answer in document["answers"]] == [
        row[0] for row in document["outputs"]["logits"]
    ]


def test_labels_are_answered_each_by_itself(tagger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = printed(capsys, "run", tagger, "--text", "a text of several words")
    logits = np.array(document["outputs"]["logits"][0])
    scores = list(document["answers"][0]["scores"].values())
    assert code == ExitCode.OK and scores == pytest.approx(1 / (1 + np.exp(-logits)), rel=1e-5)
    assert "label" not in document["answers"][0]
    manifest = json.loads((tagger / "edgeq.json").read_text())
    assert manifest["source"]["problem_type"] == "multi_label_classification"
    assert "any number of labels" in (tagger / "MODEL_CARD.md").read_text()


def test_bundles_hold_floors_of_their_kind_on_mean_and_tail(scorer: Path, tagger: Path) -> None:
    for bundle, metric in ((scorer, "score_error"), (tagger, "probability_error")):
        gates = json.loads((bundle / "edgeq.json").read_text())["gates"]
        named = {gate["metric"] for gate in gates}
        assert {f"{metric}_mean", f"{metric}_p99", f"golden_{metric}_mean"} <= named
        assert not any("cosine" in name for name in named)


def test_the_bundles_themselves_pass(
    scorer: Path, tagger: Path, trained_model: Callable[[str], Path]
) -> None:
    assert run(["validate", str(scorer), "--quiet"]) == ExitCode.OK
    assert run(["validate", str(scorer), "--against", str(trained_model("score")), "--quiet"]) == ExitCode.OK
    assert (
        run(["validate", str(tagger), "--against", str(trained_model("multi-label")), "--quiet"])
        == ExitCode.OK
    )


@pytest.mark.parametrize("kind", ["score"])
def test_a_second_runtime_is_held_to_the_first_whatever_the_head(
    kind: str, trained_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The bound is the first one's own error, of a size that means something for numbers near zero as well."""
    options = ["--target", "cpu", "--target", "coreml", "--calib-samples", "32", "--quiet"]
    options += ["-o", str(tmp_path / "b")]
    assert run(["export", str(trained_model(kind)), *options]) == ExitCode.OK
    [manifest] = [json.loads(path.read_text()) for path in tmp_path.glob("b/*-coreml/edgeq.json")]
    [parity] = [gate for gate in manifest["gates"] if gate["metric"] == ONNX_DIFFERENCE]
    assert 0 < parity["value"] <= parity["threshold"] < 0.05


@pytest.mark.parametrize(
    ("name", "value"),
    [("Mul", np.float32(1.02)), ("Mul", np.float32(-1)), ("Add", np.float32(0.05))],
    ids=["scaled", "negated", "shifted"],
)
def test_a_damaged_score_fails_its_goldens(
    name: str, value: np.float32, scorer: Path, damaged: Damage, tmp_path: Path
) -> None:
    broken = damaged(scorer, tmp_path / "b", name, value)
    assert run(["validate", str(broken), "--quiet"]) == ExitCode.GATE


def test_one_shifted_label_fails_its_goldens(tagger: Path, damaged: Damage, tmp_path: Path) -> None:
    shift = np.array([0, 0.5, 0, 0], np.float32)
    assert run(["validate", str(damaged(tagger, tmp_path / "b", "Add", shift)), "--quiet"]) == ExitCode.GATE


@pytest.mark.parametrize("factor", [1.5, -1.0])
def test_another_scale_than_the_original_fails(
    factor: float, scorer: Path, trained_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """All of one sign, the cosine of one logit would be 1 for any scale."""

    def scale(weights: dict[str, np.ndarray]) -> None:
        weights["classifier.weight"] *= factor
        weights["classifier.bias"] *= factor

    other = changed(trained_model("score"), tmp_path / "other", scale)
    assert run(["validate", str(scorer), "--against", str(other), "--quiet"]) == ExitCode.GATE


def test_labelled_texts_decide(
    tagger: Path,
    damaged: Damage,
    trained_model: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Labels as the original itself gives them: the bundle loses next to nothing, one with a shifted label much."""
    import edgeq
    from edgeq.calibration import load_samples

    texts = [
        " ".join(" ".join(sample.texts).split()) for sample in load_samples(None, count=100, seed=9).samples
    ]
    scores = [answer["scores"] for answer in edgeq.load(tagger).answer(texts)]
    lines = [
        ",".join(str(index) for index, value in enumerate(row.values()) if value > 0.5) + f"\t{text}"
        for row, text in zip(scores, texts, strict=True)
    ]
    labels = tmp_path / "labels.tsv"
    labels.write_text("\n".join(lines))
    original = trained_model("multi-label")
    code, document = printed(capsys, "validate", tagger, "--labels", labels)
    assert code == ExitCode.OK and document["variants"][0]["outputs"][0]["metrics"]["micro_f1"] == 1
    code, document = printed(capsys, "validate", tagger, "--labels", labels, "--against", original)
    gates = {gate["metric"]: gate for gate in document["variants"][0]["gates"]}
    assert code == ExitCode.OK and gates["micro_f1_drop"]["passed"]

    broken = damaged(tagger, tmp_path / "b", "Add", np.array([0, 9, 0, 0], np.float32))
    code, document = printed(capsys, "validate", broken, "--labels", labels, "--against", original)
    gates = {gate["metric"]: gate for gate in document["variants"][0]["gates"]}
    assert code == ExitCode.GATE and not gates["micro_f1_drop"]["passed"]


def test_a_fill_mask_model_is_judged_at_masks(
    trained_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained_model("words")
    bundle = export(model, tmp_path, "fp32")
    index = json.loads((bundle / "golden" / "golden.json").read_text())
    assert any("[MASK]" in str(case["samples"]) for case in index["cases"])
    assert run(["validate", str(bundle), "--against", str(model), "--quiet"]) == ExitCode.OK

    def favour(weights: dict[str, np.ndarray]) -> None:
        weights["cls.predictions.bias"][10:20] += 8

    other = changed(model, tmp_path / "other", favour)
    code, document = printed(capsys, "validate", bundle, "--against", other)
    failed = {gate["metric"] for gate in document["variants"][0]["gates"] if not gate["passed"]}
    assert code == ExitCode.GATE and failed & {"kl_mean", "kl_p99"}
