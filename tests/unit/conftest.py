"""A bundle small enough to be built in every test: two variants of a mean-pooled embedding table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase, write_golden
from edgeq.bundle.manifest import (
    Gate,
    Manifest,
    Metric,
    PreprocessKind,
    PreprocessStep,
    ProcessorInfo,
    TextProcessorInfo,
    Variant,
)
from edgeq.bundle.reader import Bundle
from edgeq.bundle.writer import BundleWriter
from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples
from edgeq.types import Role, SourceInfo, Task, TensorSpec, Verification

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "dog", "ran", "##s", "a", "b"]
HIDDEN = 4
TABLE = np.random.default_rng(7).standard_normal((len(WORDS), HIDDEN)).astype(np.float32)
STATIC_LENGTH = 8
INPUT_NAMES = ("input_ids", "attention_mask")


def wordpiece_json() -> str:
    """A WordPiece tokenizer with BERT's template, as JSON."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return str(tokenizer.to_str())


def text_preprocessor(max_length: int = 16) -> TextPreprocessor:
    """The tiny model's preprocessor."""
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return TextPreprocessor(
        wordpiece_json(), TextSettings(max_length, "[PAD]", 0, INPUT_NAMES, "right", special)
    )


def signature(*, static: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the tiny graph, as the CPU (free) or the NNAPI variant (static) declares them."""
    batch, length = (1, STATIC_LENGTH) if static else ("batch", "sequence")
    inputs = (
        TensorSpec("input_ids", "int32" if static else "int64", (batch, length), Role.TOKEN_IDS),
        TensorSpec("attention_mask", "float32" if static else "int64", (batch, length), Role.ATTENTION_MASK),
    )
    outputs = (
        TensorSpec("sentence_embedding", "float32", (batch, HIDDEN), Role.SENTENCE_EMBEDDING),
        TensorSpec("last_hidden_state", "float32", (batch, length, HIDDEN), Role.LAST_HIDDEN_STATE),
    )
    return inputs, outputs


def write_graph(path: Path, *, static: bool) -> None:
    """Embed, mask, average: `sentence_embedding`, and the masked rows as `last_hidden_state`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inputs, outputs = signature(static=static)
    types = {"int32": TensorProto.INT32, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Mul", ["rows", "mask3"], ["last_hidden_state"]),
        helper.make_node("ReduceSum", ["last_hidden_state", "one"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["counts"], keepdims=1),
        helper.make_node("Div", ["sums", "counts"], ["sentence_embedding"]),
    ]
    constants = {"table": TABLE, "last": np.array([-1]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in inputs],
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def expected_embedding(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the tiny graph computes, in numpy and float64."""
    rows = TABLE.astype(np.float64)[ids] * mask[:, :, None]
    return rows.sum(axis=1) / mask.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Tiny:
    """The builders above, for tests (test modules cannot import a conftest)."""

    table = TABLE
    words = WORDS
    static_length = STATIC_LENGTH
    wordpiece_json = staticmethod(wordpiece_json)
    preprocessor = staticmethod(text_preprocessor)
    signature = staticmethod(signature)
    write_graph = staticmethod(write_graph)
    expected_embedding = staticmethod(expected_embedding)

    def fill(self, writer: BundleWriter) -> Manifest:
        """Write everything but the manifest, and return the manifest."""
        variants = tuple(self._variant(writer, static=static) for static in (False, True))
        preprocessor = text_preprocessor()
        preprocessor.save(writer.path("tokenizer"))
        gate = Gate("cpu-fp32", "sentence_embedding", "cosine_mean", ">=", 0.99, "default", 1.0, True)
        return Manifest(
            name="tiny",
            target="android",
            source=SourceInfo(
                "tiny-model", None, (), "apache-2.0", Task.SENTENCE_EMBEDDING, "bert", TABLE.size
            ),
            variants=variants,
            created_by={"edgeq": "0.0.0-test"},
            processor=ProcessorInfo(
                TextProcessorInfo("tokenizer", 16, 0, special_ids=preprocessor.special_token_ids)
            ),
            preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, INPUT_NAMES),),
            golden=self._golden(writer, preprocessor, variants),
            gates=(gate,),
            metrics=(
                Metric(
                    "cpu-fp32",
                    "cosine_mean",
                    1.0,
                    2,
                    "x86-64",
                    Verification.EXECUTED_OTHER_ARCH,
                    "sentence_embedding",
                ),
            ),
        )

    def _variant(self, writer: BundleWriter, *, static: bool) -> Variant:
        variant_id, provider = (
            ("nnapi-fp32", "NnapiExecutionProvider") if static else ("cpu-fp32", "CPUExecutionProvider")
        )
        model = f"model/{variant_id}/model.onnx"
        write_graph(writer.path(model), static=static)
        inputs, outputs = signature(static=static)
        size = writer.size_bytes(f"model/{variant_id}")
        return Variant(
            variant_id, {"model": model}, "onnxruntime", provider, "fp32", inputs, outputs, size, 20
        )

    def _golden(self, writer: BundleWriter, preprocessor: TextPreprocessor, variants: tuple[Variant, ...]):
        samples = tuple(as_samples(["the cat sat", "a dog ran the cats"]))
        feeds = preprocessor(samples)
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        reference = {"sentence_embedding": expected_embedding(ids, mask).astype(np.float32)}
        sessions = {v.id: VariantSession(writer.folder / v.model_file, v, threads=1) for v in variants}
        outputs = {name: session.run(feeds) for name, session in sessions.items()}
        tolerance = Gate("cpu-fp32", "sentence_embedding", "max_abs", "<=", 1e-5, "float32 rounding")
        return write_golden(
            writer.folder,
            [GoldenCase("case-000", samples, feeds, reference, outputs)],
            {"case-000": [tolerance]},
        )

    def build(
        self, destination: Path, edit: Callable[[Manifest], Manifest] = lambda m: m, *, force: bool = False
    ) -> Bundle:
        """Write a whole bundle; `edit` changes its manifest before it is committed."""
        with BundleWriter(destination, force) as writer:
            return writer.commit(edit(self.fill(writer)))

    def build_failed(self, destination: Path) -> Bundle:
        """A bundle that is marked as below its gate."""
        from edgeq.bundle.manifest import Status

        def fail(manifest: Manifest) -> Manifest:
            gate = replace(manifest.gates[0], value=0.5, passed=False)
            return replace(manifest, status=Status.FAILED, gates=(gate,))

        return self.build(destination, fail)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Builders of tiny graphs, tokenizers and bundles."""
    return Tiny()


@pytest.fixture
def first_format() -> Path:
    """A tiny bundle as the writer of format 1.0 left it; it is not to be changed."""
    return Path(__file__).parents[1] / "data" / "tiny-1.0"


@pytest.fixture
def tiny_bundle(tiny: Tiny, tmp_path: Path) -> Path:
    """The folder of a fresh tiny bundle."""
    tiny.build(tmp_path / "bundle")
    return tmp_path / "bundle"
