"""Bench on a bundle that takes 16 tokens, against folders, archives and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeq.bundle.archive import write_archive
from edgeq.errors import DataError, UsageError
from edgeq.pipeline import saturating
from edgeq.pipeline.bench.request import BenchRequest
from edgeq.pipeline.bench.run import TIMERS, run_bench
from edgeq.pipeline.forward import bench
from edgeq.tasks import Mode


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 3)


def test_every_mode_has_a_timer() -> None:
    assert set(TIMERS) == set(Mode)


def test_an_archive_is_there_until_everything_is_measured(tiny_bundle: Path) -> None:
    archive = write_archive(tiny_bundle)
    report = run_bench(BenchRequest(tiny_bundle, archive, threads=1))
    found = report.contenders
    assert report.baseline == "bundle.edgeq/cpu-fp32"
    assert [item.id for item in found] == [
        "bundle.edgeq/cpu-fp32",
        "bundle.edgeq/nnapi-fp32",
        "cpu-fp32",
        "nnapi-fp32",
    ]
    assert all(item.rss_mb > 0 for item in found)
    # The static variant takes 8 tokens, so that all are timed on no more.
    assert {case.tokens for item in found for case in item.cases} == {8}


def test_no_more_tokens_than_the_model_has_positions(tiny_bundle: Path) -> None:
    model = tiny_bundle / "model/cpu-fp32/model.onnx"
    report = run_bench(BenchRequest(tiny_bundle, model, threads=1))
    assert report.baseline == "model.onnx" and report.contenders[0].cases[0].timing.ratio == 1


def test_something_else_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="neither a bundle nor an"):
        run_bench(BenchRequest(tiny_bundle, tmp_path / "notes.txt"))


def test_an_encoder_reads_no_prompt(tiny_bundle: Path) -> None:
    for request in (BenchRequest(tiny_bundle, prompt_tokens=8), BenchRequest(tiny_bundle, new_tokens=8)):
        with pytest.raises(UsageError, match="reads no prompt"):
            run_bench(request)


def add_integer_layer(model: Path, code: int) -> None:
    """Put an int8 product of equal codes behind the embedding."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    document = onnx.load(model)
    next(node for node in document.graph.node if "sentence_embedding" in node.output).output[0] = "before"
    document.graph.node.extend(
        [
            helper.make_node("DynamicQuantizeLinear", ["before"], ["codes", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["codes", "eights", "zero"], ["products"], name="head"),
            helper.make_node("Cast", ["products"], ["sentence_embedding"], to=onnx.TensorProto.FLOAT),
        ]
    )
    eights = numpy_helper.from_array(np.full((4, 4), code, np.int8), "eights")
    document.graph.initializer.append(eights)
    onnx.save(document, model)


@pytest.mark.parametrize(("code", "saturates"), [(100, ("head",)), (64, ())])
def test_layers_that_saturate_here_are_named(
    tiny, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, saturates: tuple
) -> None:
    model = tmp_path / "other.onnx"
    tiny.write_graph(model, static=False)
    add_integer_layer(model, code)
    monkeypatch.setattr(saturating, "kernels_saturate", lambda: True)
    found = run_bench(BenchRequest(tiny_bundle, model, threads=1)).contenders
    assert {item.id: item.saturates for item in found} == {
        "other.onnx": saturates,
        "cpu-fp32": (),
        "nnapi-fp32": (),
    }
    monkeypatch.setattr(saturating, "kernels_saturate", lambda: False)
    found = run_bench(BenchRequest(tiny_bundle, model, threads=1)).contenders
    assert not any(item.saturates for item in found)


def test_what_an_app_runs_is_timed(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's own kernels, at the level the bundle orders; never the exact ones that edgeq asks for elsewhere."""
    opened = []
    real = bench.VariantSession

    def opening(*arguments, **options):
        opened.append((options["exact"], options["level"]))
        return real(*arguments, **options)

    def order(manifest):
        first, second = manifest.variants
        ordered = {"session_options": {"graph_optimization_level": "ORT_ENABLE_BASIC"}}
        return replace(manifest, variants=(first, replace(second, requirements=ordered)))

    tiny.build(tmp_path / "bundle", order)
    monkeypatch.setattr(bench, "VariantSession", opening)
    run_bench(BenchRequest(tmp_path / "bundle", threads=1))
    assert opened == [(False, "ORT_ENABLE_ALL"), (False, "ORT_ENABLE_BASIC")]
