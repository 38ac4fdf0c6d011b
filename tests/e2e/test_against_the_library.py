"""Bundles beside their originals as sentence-transformers and transformers run them, from text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.pipeline.export import run_export
from edgeq.pipeline.request import ExportRequest
from edgeq.pipeline.validation.report import ValidationReport
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.pipeline.validation.run import run_validation
from edgeq.quantize.recipes import load_recipe
from edgeq.types import Task


def settings_of(folder: Path, **values: Any) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(values))


def exported(folder: Path, output: Path, **options: Any) -> Path:
    request = ExportRequest(
        model=str(folder),
        target=("cpu",),
        recipe=load_recipe("fp32"),
        output=output,
        calib_samples=8,
        **options,
    )
    [result] = run_export(request)
    assert result.failed_gates == []
    return output


def validated(bundle: Path, original: Path, texts: Path) -> ValidationReport:
    columns = "a,b" if texts.suffix == ".csv" else None
    request = ValidationRequest(bundle, against=str(original), data=str(texts), data_column=columns)
    return run_validation(request)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    words = [
        "rain",
        "falls",
        "on",
        "hills",
        "and",
        "the",
        "ferry",
        "leaves",
        "at",
        "noon",
        "while",
        "nobody",
        "waits",
    ]
    path.write_text("\n".join(" ".join(words[i % 7 : i % 7 + 2 + i % 5]) + f" {i}" for i in range(24)))
    return path


@pytest.fixture(scope="module")
def prompted(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(
        shutil.copytree(tiny_model("bert", Task.SENTENCE_EMBEDDING), tmp_path_factory.mktemp("p") / "model")
    )
    settings_of(folder, prompts={"query": "find: ", "document": "text: "}, default_prompt_name="query")
    return folder


def test_an_embedder_with_prompts(prompted: Path, texts: Path, tmp_path: Path) -> None:
    bundle = exported(prompted, tmp_path / "bundle")
    report = validated(bundle, prompted, texts)
    assert report.passed and report.run_by is not None and report.run_by.is_library
    assert report.run_by.name.startswith("SentenceTransformer.encode of sentence-transformers")
    assert report.to_json()["original"]["by_its_own_library"] is True
    # The same weights behind another prompt are another model.
    other = Path(shutil.copytree(prompted, tmp_path / "other"))
    settings_of(other, prompts={"query": "completely different: "}, default_prompt_name="query")
    assert not validated(bundle, other, texts).passed
    with edgeq.load(bundle) as runtime:
        queries, documents = (runtime.encode(["rain"], role=role) for role in ("query", "document"))
        np.testing.assert_array_equal(runtime.encode(["rain"]), queries)
        assert np.abs(queries - documents).max() > 1e-3
    manifest = json.loads((bundle / "edgeq.json").read_text())["processor"]["text"]
    assert (
        manifest["prompts"] == {"query": "find: ", "document": "text: "}
        and manifest["default_prompt"] == "query"
    )


def test_a_reranker_against_another_one(tiny_models: Any, texts: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "reranker"
    folder.mkdir()
    tiny_models.build_tiny_model(folder, "bert", Task.SEQUENCE_CLASSIFICATION)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    state |= {"classifier.weight": state["classifier.weight"][:1].clone(), "classifier.bias": torch.ones(1)}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    lines = texts.read_text().splitlines()
    pairs = texts.with_name("pairs.csv")
    pairs.write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in zip(lines, reversed(lines), strict=True)))
    bundle = exported(folder, tmp_path / "bundle", calib=str(pairs), calib_column="a,b")
    report = validated(bundle, folder, pairs)
    assert report.passed and report.run_by is not None and "CrossEncoder.predict" in report.run_by.name
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    generator = torch.Generator().manual_seed(3)
    changed = {
        name: tensor + tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 2
        else tensor
        for name, tensor in state.items()
    }
    save_file(changed, other / "model.safetensors", {"format": "pt"})
    failed = validated(bundle, other, pairs)
    assert not failed.passed and any("rank_correlation" in what for what in failed.failures)
