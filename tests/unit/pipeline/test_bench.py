"""Bench on a bundle that takes 16 tokens, against folders, archives and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.bundle.archive import write_archive
from edgeq.errors import DataError, UsageError
from edgeq.pipeline import bench
from edgeq.pipeline.bench import BenchRequest, run_bench


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 3)


def test_an_archive_is_there_until_everything_is_measured(tiny_bundle: Path) -> None:
    archive = write_archive(tiny_bundle)
    baseline, found = run_bench(BenchRequest(tiny_bundle, archive, threads=1))
    assert baseline == "bundle.edgeq/cpu-fp32"
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
    baseline, found = run_bench(BenchRequest(tiny_bundle, model, threads=1))
    assert baseline == "model.onnx" and found[0].cases[0].timing.ratio == 1


def test_something_else_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="neither a bundle nor an"):
        run_bench(BenchRequest(tiny_bundle, tmp_path / "notes.txt"))


def test_an_encoder_reads_no_prompt(tiny_bundle: Path) -> None:
    for request in (BenchRequest(tiny_bundle, prompt_tokens=8), BenchRequest(tiny_bundle, new_tokens=8)):
        with pytest.raises(UsageError, match="reads no prompt"):
            run_bench(request)
