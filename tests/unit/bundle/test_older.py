"""Bundles of format 1, which are read for good: one as it was written, and what is neither 1 nor 2."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.compare import compare
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.reader import open_bundle
from edgeq.errors import IntegrityError
from edgeq.runtime.runtime import load

Document = dict[str, Any]


@pytest.fixture
def first(first_format: Path) -> Document:
    return json.loads((first_format / "edgeq.json").read_text("utf-8"))


@pytest.fixture
def current(tiny_bundle: Path) -> Document:
    return json.loads((tiny_bundle / "edgeq.json").read_text("utf-8"))


@pytest.fixture
def first_bundle(first_format: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_format, tmp_path / "first"))


def test_a_bundle_of_1_0_is_the_same_model(first: Document, first_format: Path, tiny_bundle: Path) -> None:
    assert first["format"]["version"] == "1.0"
    with open_bundle(first_format) as old, open_bundle(tiny_bundle) as new:
        assert old.manifest.format.version == "1.0"
        assert [variant.models for variant in old.variants] == [variant.models for variant in new.variants]
        assert old.manifest.text_processor == new.manifest.text_processor
        assert old.model_path(old.variants[0]) == first_format / "model/cpu-fp32/model.onnx"
        changes = compare(old.manifest, new.manifest).manifest
        assert [change.what for change in changes] == ["format.version"]


def test_a_bundle_of_1_0_runs(first_format: Path, tiny_bundle: Path) -> None:
    texts = ["the cat sat", "b"]
    with load(first_format) as old, load(tiny_bundle) as new:
        np.testing.assert_array_equal(old.encode(texts), new.encode(texts))


def test_a_damaged_bundle_of_1_0_is_refused(first_bundle: Path) -> None:
    (first_bundle / "model/cpu-fp32/model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"model\.onnx` has 1 bytes"):
        open_bundle(first_bundle)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.7"])
def test_a_manifest_of_format_1_is_written_as_it_was(first: Document, version: str) -> None:
    first["format"]["version"] = version
    first["variants"][1]["energy_mj"] = 3.5
    first["tokenizer"]["language"] = "en"
    manifest = Manifest.from_json(copy.deepcopy(first))
    assert json.dumps(manifest.to_json()["variants"]) == json.dumps(first["variants"])
    assert manifest.to_json() == first
    assert Manifest.from_text(manifest.to_text()) == manifest


def _rename(part: Callable[[Document], Document], old: str, new: str) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        holder = part(document)
        holder[new] = holder.pop(old)

    return edit


def _variant(document: Document) -> Document:
    found: Document = document["variants"][0]
    return found


def _document(document: Document) -> Document:
    return document


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_rename(_variant, "model", "models"), r"format 1: at variants\[0\]: .*the keys id, model, runtime"),
        (lambda d: _variant(d).update(models={"model": "x"}), r"variants\[0\]: got `models`, which format 1"),
        (lambda d: d.update(processor={"text": d["tokenizer"]}), "got `processor`, which format 1 calls"),
        (
            lambda d: _variant(d).update(model={"model": "x"}),
            r"variants\[0\]\.model: got .*expected type str",
        ),
        (lambda d: _variant(d).update(model="/etc/hostname"), r"`/etc/hostname` is not in integrity\.files"),
        (lambda d: d["tokenizer"].update(default_prompt="q"), "there is no prompt `q`"),
        (lambda d: d["tokenizer"].update(path="tok"), "`tok` is not in integrity"),
        (lambda d: d["tokenizer"].pop("pad_id"), r"at tokenizer: .*expected the keys .*pad_id"),
        (lambda d: d["format"].update(version="2.0"), r"format 2: at variants\[0\]: .*the keys id, models"),
    ],
)
def test_a_wrong_manifest_of_format_1_is_refused(
    first: Document, edit: Callable[[Document], None], message: str
) -> None:
    Manifest.from_json(copy.deepcopy(first))
    edit(first)
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(first)


def _components(**models: str) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        _variant(document)["models"] = models

    return edit


OWN, OTHER = "model/cpu-fp32/model.onnx", "model/nnapi-fp32/model.onnx"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_rename(_variant, "models", "model"), r"format 2: at variants\[0\]: .*the keys id, models"),
        (lambda d: _variant(d).update(model=OWN), r"variants\[0\]: got `model`, which format 2 calls"),
        (lambda d: d.update(tokenizer=d["processor"]["text"]), "got `tokenizer`, which format 2 calls"),
        (lambda d: d["format"].update(version="1.1"), r"format 1: at variants\[0\]"),
        (lambda d: d.update(processor={}), "at processor: got {}"),
        (_components(), r"at variants\[0\]\.models: got {}"),
        (_components(**{"../x": OWN}), r"variants\[0\]\.models"),
        (_components(encoder=OWN), "its only component is `encoder`, expected `model`"),
        (_components(encoder=OWN, decoder=OWN), "the path `model/cpu-fp32/model.onnx` is there 2 times"),
        (_components(encoder=OWN, decoder=OWN.upper()), "is there 2 times"),
        (_components(encoder=OWN, decoder=OTHER), "its components lie in several folders"),
        (_components(model="/etc/hostname"), r"`/etc/hostname` is not in integrity\.files"),
        (_components(model="model/cpu-fp32/../x"), r"`model/cpu-fp32/\.\./x` is not in integrity"),
        (_components(model=OWN, other="model/cpu-fp32/x"), "the tensor `input_ids` is of none of its comp"),
    ],
)
def test_a_wrong_manifest_of_format_2_is_refused(
    current: Document, edit: Callable[[Document], None], message: str
) -> None:
    Manifest.from_json(copy.deepcopy(current))
    edit(current)
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(current)
