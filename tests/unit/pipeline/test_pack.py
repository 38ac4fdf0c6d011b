"""`edgeq pack`: what is left is whole, and says nothing of what is gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.manifest import Gate, Manifest, Metric, Quantization
from edgeq.bundle.reader import open_bundle
from edgeq.errors import DataError, GateError, IntegrityError, OutputError, UsageError
from edgeq.pipeline.explain import PLAN
from edgeq.pipeline.export import finished
from edgeq.pipeline.pack import PackRequest, Slimming, run_pack
from edgeq.pipeline.pages import write_export_pages
from edgeq.pipeline.plan import TargetResult
from edgeq.pipeline.request import ExportRequest
from edgeq.pipeline.sensitivity import FILE_NAME
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.pipeline.validation.run import _require_comparands, run_validation
from edgeq.pipeline.validation.table import JUDGING
from edgeq.report.html import REPORT_FILE, write_report
from edgeq.report.model_card import CARD_FILE, write_model_card
from edgeq.tasks import mode_of
from edgeq.types import Task, Verification

PLAN_TEXT = '{"equalizations": [], "linears": [], "embeddings": [], "settings": {}}'


def _rich(tiny: Any, destination: Path, plan: str = PLAN_TEXT) -> Path:
    """A bundle with everything that speaks of its second variant."""
    from edgeq.bundle.writer import BundleWriter

    with BundleWriter(destination) as writer:
        manifest = _with_second_variant(tiny.fill(writer))
        (writer.folder / PLAN).write_text(plan)
        (writer.folder / FILE_NAME).write_text("{}")
        (writer.folder / "recipe.yaml").write_text("name: int8\n")
        write_model_card(writer.folder, manifest)
        write_report(writer.folder, manifest)
        writer.commit(manifest)
    return destination


def _with_second_variant(manifest: Manifest) -> Manifest:
    output = "sentence_embedding"
    floor = Gate("nnapi-fp32", output, "cosine_mean", ">=", 0.98, "default", 1.0, True)
    drift = Gate("cpu-fp32", output, "drift_rms", "<=", 0.01, "kernel noise", 0.0, True)
    metric = Metric("nnapi-fp32", "cosine_mean", 1.0, 2, "x86-64", Verification.EXECUTED_OTHER_ARCH, output)
    (case,) = manifest.golden
    tolerance = Gate("nnapi-fp32", output, "max_abs", "<=", 1e-5, "float32 rounding")
    return replace(
        manifest,
        gates=(*manifest.gates, floor, drift, replace(drift, variant="nnapi-fp32")),
        metrics=(*manifest.metrics, metric),
        golden=(replace(case, tolerances=(*case.tolerances, tolerance)),),
        quantization=Quantization("int8", "recipe.yaml", bits_per_weight=8.0),
    )


@pytest.fixture
def rich(tiny: Any, tmp_path: Path) -> Path:
    return _rich(tiny, tmp_path / "rich")


def _pack(bundle: Path, output: Path, **options: Any) -> Any:
    keys = ("archive", "force")
    request = {key: options.pop(key) for key in keys if key in options}
    return run_pack(PackRequest(bundle, output, Slimming(**options), **request))


@pytest.mark.parametrize("name", ["cpu", "cpu-fp32"])
def test_nothing_of_a_dropped_variant_is_left(rich: Path, tmp_path: Path, name: str) -> None:
    packed = _pack(rich, tmp_path / "small", variants=(name,))
    assert packed.dropped == ("nnapi-fp32",)
    assert packed.bytes_after < packed.bytes_before
    for path in (tmp_path / "small").rglob("*"):
        assert "nnapi" not in path.name
        if path.is_file():
            assert b"nnapi" not in path.read_bytes().lower(), path
    # The negative twin: the words are in every one of these before.
    for name_ in (
        "edgeq.json",
        CARD_FILE,
        REPORT_FILE,
        "golden/case-000.npz",
        "golden/golden.json",
        "model/component.json",
    ):
        assert b"nnapi" in (rich / name_).read_bytes().lower()


def test_what_is_kept_is_as_it_was(rich: Path, tmp_path: Path) -> None:
    _pack(rich, tmp_path / "small", variants=("nnapi",))
    with open_bundle(rich) as before, open_bundle(tmp_path / "small") as after:
        kept = before.variant("nnapi-fp32")
        assert after.variants == (kept,)
        assert after.file(kept.model_file).read_bytes() == before.file(kept.model_file).read_bytes()
        assert after.manifest.gates == tuple(g for g in before.manifest.gates if g.variant == kept.id)
        (old,), (new,) = before.golden_cases(), after.golden_cases()
        assert set(new.outputs) == {kept.id}
        for name, array in old.outputs[kept.id].items():
            np.testing.assert_array_equal(new.outputs[kept.id][name], array)
        assert new.samples == old.samples
        # Said of the first variant, which is another one now.
        assert before.manifest.quantization is not None
        assert after.manifest.quantization is not None
        expected = 8 * kept.size_bytes / before.manifest.source.parameters
        assert after.manifest.quantization.bits_per_weight == pytest.approx(expected, abs=0.005)


def test_the_result_validates_and_a_damaged_one_does_not(rich: Path, tmp_path: Path) -> None:
    _pack(rich, tmp_path / "small", variants=("cpu",))
    report = run_validation(ValidationRequest(tmp_path / "small"))
    assert report.passed
    assert [variant.id for variant in report.variants] == ["cpu-fp32"]
    model = tmp_path / "small/model/cpu-fp32/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError):
        run_validation(ValidationRequest(tmp_path / "small"))


def test_all_variants_are_the_same_bytes(rich: Path, tmp_path: Path) -> None:
    _pack(rich, tmp_path / "copy")
    for path in rich.rglob("*"):
        if path.is_file():
            assert (tmp_path / "copy" / path.relative_to(rich)).read_bytes() == path.read_bytes(), path


def test_goldens_and_report_are_dropped_on_demand(rich: Path, tmp_path: Path) -> None:
    _pack(rich, tmp_path / "small", drop_goldens=True, drop_report=True)
    there = {path.relative_to(tmp_path / "small").as_posix() for path in (tmp_path / "small").rglob("*.*")}
    assert not there & {PLAN, FILE_NAME, REPORT_FILE, "golden/golden.json", "golden/case-000.npz"}
    assert {CARD_FILE, "recipe.yaml", "tokenizer/tokenizer.json"} <= there
    with open_bundle(tmp_path / "small") as bundle:
        assert [gate.metric for gate in bundle.manifest.gates] == ["cosine_mean", "cosine_mean"]
    assert "edgeq validate" not in (tmp_path / "small" / CARD_FILE).read_text()
    with pytest.raises(DataError, match="no golden cases to replay; every file is the one") as refusal:
        run_validation(ValidationRequest(tmp_path / "small"))
    assert "--against" in str(refusal.value.hint)


def test_packing_twice_gives_the_same_bytes_and_an_archive(rich: Path, tmp_path: Path) -> None:
    first = _pack(rich, tmp_path / "a" / "app", variants=("cpu",), archive=True)
    second = _pack(rich, tmp_path / "b" / "app", variants=("cpu",), archive=True)
    assert first.archive.read_bytes() == second.archive.read_bytes()
    again = _pack(first.archive, tmp_path / "c", drop_goldens=True)
    assert again.bundle.manifest.golden == ()


def test_keys_of_newer_versions_survive_in_their_places(rich: Path, tmp_path: Path) -> None:
    from edgeq.bundle.integrity import measure, sums_text
    from edgeq.bundle.manifest import Integrity

    document = json.loads((rich / "edgeq.json").read_text())
    document["newer"] = 1
    document["gates"][1]["newer"] = "of nnapi"
    document["gates"][2]["newer"] = "of cpu"
    (rich / "edgeq.json").write_text(json.dumps(document))
    integrity: Integrity = measure(rich)
    (rich / "SHA256SUMS").write_text(sums_text(rich, integrity))
    _pack(rich, tmp_path / "small", variants=("cpu",))
    found = json.loads((tmp_path / "small" / "edgeq.json").read_text())
    assert found["newer"] == 1
    assert [gate.get("newer") for gate in found["gates"]] == [None, "of cpu"]


@pytest.mark.parametrize("plan", ["{}", "[", '{"equalizations": 3}'])
def test_a_plan_that_is_none_is_damage(tiny: Any, tmp_path: Path, plan: str) -> None:
    bundle = _rich(tiny, tmp_path / "odd", plan)
    with pytest.raises(IntegrityError, match=r"`plan\.json` of .* cannot be read"):
        _pack(bundle, tmp_path / "small", variants=("cpu",))
    assert not (tmp_path / "small").exists()


def test_refusals_leave_everything_as_it_was(tiny: Any, rich: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    tiny.build_failed(tmp_path / "failed")
    for bundle, output, options, error, message in (
        (rich, "new", {"variants": ("gpu",)}, UsageError, "no variant `gpu`; it has cpu-fp32, nnapi-fp32"),
        (rich, "taken", {"force": True}, OutputError, "is not a bundle"),
        (rich, "failed", {}, OutputError, "exists"),
        (rich, "rich", {"force": True}, UsageError, "the bundle itself"),
        (tmp_path / "failed", "new", {"force": True}, GateError, "failed its quality gate"),
    ):
        with pytest.raises(error, match=message):
            _pack(bundle, tmp_path / output, **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["failed", "rich", "taken"]
    with open_bundle(rich) as bundle:
        assert len(bundle.variants) == 2


def test_a_slim_export_still_writes_the_report_that_was_asked_for(rich: Path, tmp_path: Path) -> None:
    whole = (rich / REPORT_FILE).read_text(encoding="utf-8")
    bundle, archive, page = finished(open_bundle(rich), ExportRequest(slim=True))
    assert archive is None
    assert not (rich / REPORT_FILE).exists()
    measured: Any = {variant.id: SimpleNamespace(timing=None) for variant in bundle.variants}
    result = TargetResult("android", bundle, measured, 0, page=page)
    write_export_pages([result], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(("task", "can_be_live"), [("sentence-embedding", True), ("text-generation", False)])
def test_what_can_be_done_without_golden_cases(tmp_path: Path, task: str, can_be_live: bool) -> None:
    """The original alone is no comparand of a language model: its steps start from golden caches."""
    with pytest.raises(DataError) as refusal:
        _require_comparands([], JUDGING[mode_of(Task(task))], ValidationRequest(tmp_path))
    assert refusal.value.hint is not None
    assert ("--against" in refusal.value.hint) is can_be_live
    assert refusal.value.hint.endswith("validate the bundle it was packed from")
