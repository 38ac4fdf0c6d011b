from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.archive import write_archive
from edgeq.bundle.manifest import PostprocessKind, PostprocessStep, ProcessorInfo
from edgeq.errors import DataError, GateError, IntegrityError, ModelError, UnsupportedError, UsageError
from edgeq.runtime.executors import NativeExecutor
from edgeq.runtime.runtime import load
from edgeq.samples import Text, as_samples
from edgeq.types import Role, Task, Verification

TEXTS = ["the cat sat", "b", "a dog ran the cats the dog sat a b the the the the the the the"]
# The graph averages at most 16 float32 values of size 1 to 3.
ATOL = 4e-6


def _expected(tiny: Any, texts: list[str], max_length: int = 16) -> np.ndarray:
    feeds = tiny.preprocessor(max_length)(as_samples(texts))
    return tiny.expected_embedding(feeds["input_ids"], feeds["attention_mask"])


def test_the_first_variant_runs_on_texts_and_feeds(tiny: Any, tiny_bundle: Path) -> None:
    with load(tiny_bundle, threads=1) as runtime:
        assert runtime.variant.id == "cpu-fp32"
        assert [variant.id for variant in runtime.variants] == ["cpu-fp32", "nnapi-fp32"]
        assert [spec.name for spec in runtime.inputs] == ["input_ids", "attention_mask"]
        assert runtime.outputs[0].role is Role.SENTENCE_EMBEDDING
        by_text = runtime.run(text=TEXTS)
        by_feeds = runtime.run(feeds=tiny.preprocessor()(as_samples(TEXTS)))
        np.testing.assert_allclose(by_text["sentence_embedding"], _expected(tiny, TEXTS), atol=ATOL)
        for name, array in by_feeds.items():
            np.testing.assert_array_equal(by_text[name], array)


def test_a_static_variant_truncates_to_its_length(tiny: Any, tiny_bundle: Path) -> None:
    with load(tiny_bundle, variant="nnapi-fp32") as runtime:
        assert runtime.preprocessor is not None
        assert runtime.preprocessor.max_length == tiny.static_length
        outputs = runtime.run(text=TEXTS)["sentence_embedding"]
    np.testing.assert_allclose(outputs, _expected(tiny, TEXTS, tiny.static_length), atol=ATOL)
    assert np.abs(outputs[2] - _expected(tiny, TEXTS)[2]).max() > 100 * ATOL


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_encode_keeps_the_order(tiny: Any, tiny_bundle: Path, batch_size: int) -> None:
    with load(tiny_bundle) as runtime:
        embeddings = runtime.encode(TEXTS, batch_size=batch_size)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, _expected(tiny, TEXTS), atol=ATOL)
    assert np.abs(embeddings[0] - embeddings[2]).max() > 100 * ATOL


def test_plain_values_and_samples_are_the_same_to_every_verb(tiny_bundle: Path) -> None:
    plain = ["the cat sat", "a dog"]
    with load(tiny_bundle) as runtime:
        np.testing.assert_array_equal(runtime.encode(plain), runtime.encode(as_samples(plain)))
        for texts in (plain, [("the cat", "a dog")]):
            found = runtime.run(text=texts)
            for name, array in runtime.run(text=as_samples(texts)).items():
                np.testing.assert_array_equal(array, found[name])
        np.testing.assert_array_equal(
            runtime.prepare("a dog")["input_ids"], runtime.prepare([Text("a dog")])["input_ids"]
        )
        for bad in ([3], [("a", "b", "c")], [["a"]]):
            with pytest.raises(DataError, match="sample 0 must be a text or a pair of texts"):
                runtime.run(text=bad)  # type: ignore[arg-type]
            with pytest.raises(DataError, match="sample 0 must be"):
                runtime.encode(bad)  # type: ignore[arg-type]


def test_the_bundle_reproduces_its_golden_outputs(tiny_bundle: Path) -> None:
    with load(tiny_bundle) as runtime:
        for case in runtime.bundle.golden_cases():
            for name, array in runtime.run(text=case.samples).items():
                np.testing.assert_array_equal(array, case.outputs["cpu-fp32"][name])


def test_archives_load_and_close(tiny: Any, tiny_bundle: Path) -> None:
    archive = write_archive(tiny_bundle)
    with load(archive) as runtime:
        folder = runtime.bundle.folder
        np.testing.assert_allclose(runtime.encode(TEXTS), _expected(tiny, TEXTS), atol=ATOL)
    assert not folder.exists()


def test_other_models_have_no_encode(tiny: Any, tmp_path: Path) -> None:
    def classifier(manifest: Any) -> Any:
        variant = manifest.variants[0]
        outputs = (replace(variant.outputs[0], role=Role.LOGITS), variant.outputs[1])
        return replace(
            manifest,
            source=replace(manifest.source, task=Task.SEQUENCE_CLASSIFICATION, labels=("w", "x", "y", "z")),
            variants=(replace(variant, outputs=outputs),),
            postprocess=(PostprocessStep(PostprocessKind.ARGMAX_LABEL, ("sentence_embedding",)),),
            golden=(),
        )

    tiny.build(tmp_path / "bundle", classifier)
    with load(tmp_path / "bundle") as runtime:
        with pytest.raises(UnsupportedError, match="is a sequence-classification model; it has no sentence"):
            runtime.encode(["a"])
        labels = [answer["label"] for answer in runtime.answer(TEXTS)]
    assert labels == ["wxyz"[index] for index in _expected(tiny, TEXTS).argmax(axis=1)]


def test_wrong_calls(tiny_bundle: Path) -> None:
    with load(tiny_bundle) as runtime:
        for wrong in ({}, {"text": ["a"], "feeds": {}}):
            with pytest.raises(DataError, match="either text= or feeds="):
                runtime.run(**wrong)
        for nothing in ([], "the cat"):
            with pytest.raises(DataError, match="list with at least one"):
                runtime.encode(nothing)
        np.testing.assert_array_equal(
            runtime.run(text="the cat")["sentence_embedding"],
            runtime.run(text=["the cat"])["sentence_embedding"],
        )


def test_what_cannot_be_loaded(tiny: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no variant `gpu`"):
        load(tiny_bundle, variant="gpu")
    tiny.build(
        tmp_path / "coreml",
        lambda m: replace(m, variants=tuple(replace(v, runtime="coreml") for v in m.variants)),
    )
    with pytest.raises(UnsupportedError, match=r"no variant of .* runs here: needed coreml"):
        load(tmp_path / "coreml")
    with pytest.raises(UnsupportedError, match="`cpu-fp32` does not run here: needed coreml"):
        load(tmp_path / "coreml", variant="cpu-fp32", open_other=lambda *_: None)
    tiny.build_failed(tmp_path / "failed")
    with pytest.raises(GateError):
        load(tmp_path / "failed")
    load(tmp_path / "failed", force=True).close()


class Echo:
    """Stands for another runtime: the token ids, as floats."""

    static_length = 4
    verification = Verification.SIMULATED

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"sentence_embedding": feeds["input_ids"].astype(np.float32)}


def test_other_runtimes_are_opened_where_onnx_runtime_has_nothing(tiny: Any, tmp_path: Path) -> None:
    def second_is_other(manifest: Any) -> Any:
        first, second = manifest.variants
        return replace(manifest, variants=(replace(first, runtime="coreml"), second))

    tiny.build(tmp_path / "both", second_is_other)
    tiny.build(
        tmp_path / "other",
        lambda m: replace(m, variants=tuple(replace(v, runtime="coreml") for v in m.variants)),
    )
    opened: list[str] = []

    def open_other(bundle: Any, variant: Any, pad_id: int) -> Echo | None:
        opened.append(variant.id)
        return Echo() if variant.id == "nnapi-fp32" else None

    with load(tmp_path / "both", open_other=open_other) as runtime:
        assert (runtime.variant.id, opened) == ("nnapi-fp32", [])
        assert runtime.verification is Verification.EXECUTED_OTHER_ARCH
    with load(tmp_path / "other", open_other=open_other) as runtime:
        assert (runtime.variant.id, opened) == ("nnapi-fp32", ["cpu-fp32", "nnapi-fp32"])
        assert runtime.verification is Verification.SIMULATED
        assert runtime.preprocessor is not None and runtime.preprocessor.max_length == 4
        feeds = runtime.prepare(["the cat sat"])
        np.testing.assert_array_equal(runtime.run(feeds=feeds)["sentence_embedding"], feeds["input_ids"])
        with pytest.raises(UnsupportedError, match="only --on native offers"):
            runtime.run_on(NativeExecutor("arm64"), feeds)
    with pytest.raises(UsageError, match="threads are ONNX Runtime's"):
        load(tmp_path / "other", open_other=open_other, threads=1)


def test_verification_comes_before_loading(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a changed model was loaded")
    )
    model = tiny_bundle / "model/cpu-fp32/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError):
        load(tiny_bundle)


def test_a_bundle_without_a_tokenizer_takes_feeds_alone(tiny: Any, tmp_path: Path) -> None:
    tiny.build(tmp_path / "bundle", lambda m: replace(m, processor=None, preprocess=()))
    with load(tmp_path / "bundle") as runtime:
        with pytest.raises(DataError, match="no tokenizer"):
            runtime.run(text=["a"])
        assert runtime.run(feeds=tiny.preprocessor()(as_samples(["a"])))["sentence_embedding"].shape == (1, 4)


def test_running_a_bundle_needs_the_light_installation_alone(tiny_bundle: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from edgeq.runtime.runtime import load; load(sys.argv[1]).encode(['the cat']);"
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnx_ir', 'coremltools') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(("name", "value"), [("max_length", 64), ("pad_id", 1)])
def test_a_tokenizer_with_other_settings_than_the_manifest_s_is_damaged(
    tiny: Any, tmp_path: Path, name: str, value: int
) -> None:
    from edgeq.bundle.reader import open_bundle
    from edgeq.runtime.runtime import load_preprocessor

    def other(manifest: Any) -> Any:
        return replace(manifest, processor=ProcessorInfo(replace(manifest.text_processor, **{name: value})))

    tiny.build(tmp_path / "whole")
    with open_bundle(tmp_path / "whole") as bundle:
        assert load_preprocessor(bundle) is not None
    tiny.build(tmp_path / "damaged", other)
    with open_bundle(tmp_path / "damaged") as bundle, pytest.raises(IntegrityError, match=name):
        load_preprocessor(bundle)
