"""`edgeq.json` as frozen dataclasses of format 2, whose schema is `schema/edgeq-2.0.schema.json` for every 2.x."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from edgeq.bundle.codec import NOT_IN_JSON, KeyPath, decode, encode, restore
from edgeq.bundle.documents import parse
from edgeq.bundle.older import FIRST, to_current, to_first
from edgeq.bundle.schema import check_consistency, check_schema
from edgeq.errors import IntegrityError, UnsupportedError
from edgeq.types import COMPONENT, Role, SourceInfo, TensorSpec, Verification

FORMAT_NAME = "edgeq"
FORMAT_VERSION = "2.0"
"""Of what is made; every 1.x and 2.x is read. docs/bundle.md says what each brought."""
MAJORS = (FIRST, "2")
"""Versions that are read."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_MANIFEST_VALUES = 1 << 16
"""A bundle of two variants has some 1,000 in 40 kB; checking a value takes some 10 microseconds."""


class Status(StrEnum):
    """Whether a bundle kept its quality gates."""

    PASSED = "passed"
    FAILED = "failed"


class PreprocessKind(StrEnum):
    """The steps from raw data to model inputs that a reader of format 2.0 knows."""

    TOKENIZE = "tokenize"


class PostprocessKind(StrEnum):
    """The steps from model outputs to answers that a reader of format 2.0 knows.

    `softmax`, `sigmoid`: probabilities over the last axis. `argmax_label`: the label of the largest logit,
    per text or per token. `answer_span`: the best start and end of an answer in the second text of a
    pair. `top_tokens`: the likeliest words at the mask token. `score`: the numbers themselves.
    """

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    ARGMAX_LABEL = "argmax_label"
    ANSWER_SPAN = "answer_span"
    TOP_TOKENS = "top_tokens"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Format:
    """Name and version of the bundle format."""

    name: str = FORMAT_NAME
    version: str = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model.

    Attributes:
        id: `cpu-int8`, `nnapi-fp32`, ...; also its folder's name.
        models: path of each graph's file, or `.mlpackage` folder, by component; the only one is called `model`.
        runtime: `onnxruntime`, `coreml`, `onnxruntime-genai`, `llama.cpp`.
        execution_provider: `CPUExecutionProvider`, `NnapiExecutionProvider`, a Core ML compute unit.
        precision: of the weights and activations: `int8`, `int4`, `fp16`, `fp32` or a recipe's name.
        size_bytes: all files of the variant.
        opset: ONNX opset version.
        requirements: runtime version range, `min_android_api`, `min_ios`, ABI, CPU features, `min_ram_mb`.
        placement: predicted nodes per execution provider, partitions, reasons.
    """

    id: str
    models: Mapping[str, str]
    runtime: str
    execution_provider: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    opset: int | None = None
    requirements: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> PurePosixPath:
        """Where all files of the variant are."""
        return PurePosixPath(next(iter(self.models.values()))).parent

    @property
    def model_file(self) -> str:
        """Path of the model, where it is one graph.

        Raises:
            UnsupportedError: it is several.
        """
        return self.component_file(COMPONENT)

    def component_file(self, component: str) -> str:
        """Path of one graph.

        Raises:
            UnsupportedError: there is no component of this name.
        """
        if component not in self.models:
            raise UnsupportedError(
                f"the variant `{self.id}` has no component `{component}`; it has {', '.join(self.models)}"
            )
        return self.models[component]

    @property
    def token_lengths(self) -> tuple[int, ...]:
        """Sequence lengths it was compiled for, ascending; empty where the length is free or it takes no tokens."""
        several = self.placement.get("sequence_lengths")
        if isinstance(several, list | tuple) and several and all(isinstance(item, int) for item in several):
            return tuple(sorted(several))
        sizes = (spec.shape[1:2] for spec in self.inputs if spec.role is Role.TOKEN_IDS)
        return tuple(dim for shape in sizes for dim in shape if isinstance(dim, int))


@dataclass(frozen=True, slots=True)
class TextProcessorInfo:
    """Where the tokenizer is and what an app has to know about it.

    Attributes:
        path: its folder.
        special_ids: token id by role (`cls_token`, `sep_token`, `pad_token`, ...).
        prompts: text that goes before a text, by role (`query`, `document`, ...); of a pair before the first one.
        default_prompt: role of a text that is given none; None puts nothing before it.
    """

    path: str
    max_length: int
    pad_id: int
    padding: str = "right"
    special_ids: Mapping[str, int] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessorInfo:
    """What turns samples into inputs, by the kind of sample."""

    text: TextProcessorInfo | None = None


@dataclass(frozen=True, slots=True)
class PreprocessStep:
    """One step before the model; `inputs` are the model inputs it makes."""

    step: PreprocessKind
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PostprocessStep:
    """One step after the model; `outputs` are the model outputs it reads."""

    step: PostprocessKind
    outputs: tuple[str, ...]
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on a metric, and how the bound was arrived at; also the tolerance of a golden case.

    Attributes:
        op: `>=` or `<=`.
        derived_from: where the threshold comes from (a flag, a default, a measured spread).
        value: what was measured, where it was.
        passed: whether it held, where it was measured.
    """

    variant: str
    output: str
    metric: str
    op: str
    threshold: float
    derived_from: str
    value: float | None = None
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number: on how many samples (`n`), where, and how real the execution was."""

    variant: str
    metric: str
    value: float
    n: int
    environment: str
    verification: Verification
    output: str | None = None


@dataclass(frozen=True, slots=True)
class GoldenEntry:
    """A golden case: its arrays (`path`), and how far a device may be from the bundle's recorded outputs."""

    id: str
    path: str
    tolerances: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """The data that activation ranges come from."""

    source: str
    sha256: str
    samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class ExcludedNode:
    """A node left in floating point, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the model was quantized."""

    precision: str
    recipe: str
    calibration: Calibration | None = None
    bits_per_weight: float | None = None
    excluded: tuple[ExcludedNode, ...] = ()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Integrity:
    """Every file of the bundle but `edgeq.json` and `SHA256SUMS` (which lists `edgeq.json` too)."""

    files: tuple[FileEntry, ...] = ()
    algorithm: str = "sha256"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of `edgeq.json`.

    Attributes:
        name: of the model, as in `all-MiniLM-L6-v2`.
        target: what it was built for: `android`, `coreml`, `cpu`.
        variants: most preferred first.
        created_by: version by program.
        language_golden: path of what a language model's bundle records around its logits; None in older bundles and
            those of other tasks.
        integrity: filled in by the writer.
        format: of the file it was read from, whose words `to_json` speaks; everything else here is format 2.
        unknown: keys of a newer minor version, kept on a round trip.
    """

    name: str
    target: str
    source: SourceInfo
    variants: tuple[Variant, ...]
    created_by: Mapping[str, str]
    status: Status = Status.PASSED
    quantization: Quantization | None = None
    processor: ProcessorInfo | None = None
    preprocess: tuple[PreprocessStep, ...] = ()
    postprocess: tuple[PostprocessStep, ...] = ()
    golden: tuple[GoldenEntry, ...] = ()
    language_golden: str | None = None
    gates: tuple[Gate, ...] = ()
    metrics: tuple[Metric, ...] = ()
    integrity: Integrity = field(default_factory=Integrity)
    format: Format = field(default_factory=Format)
    unknown: Mapping[KeyPath, Any] = field(default_factory=dict, metadata=NOT_IN_JSON, repr=False)

    @property
    def text_processor(self) -> TextProcessorInfo | None:
        """What the tokenizer is; None where the model takes no text."""
        return None if self.processor is None else self.processor.text

    def current_json(self) -> dict[str, Any]:
        """The document with the keys of format 2, whatever it was read from; format first."""
        document = encode(self)
        document = {"format": document.pop("format"), **document}
        restore(document, self.unknown)
        return document

    def to_json(self) -> dict[str, Any]:
        """The document of `edgeq.json`: of the format that the manifest was read from, or of the newest."""
        document = self.current_json()
        return to_first(document) if self.format.version.startswith(f"{FIRST}.") else document

    def to_text(self) -> str:
        """`to_json` as text.

        Raises:
            ValueError: a number is NaN or infinite, which JSON has no word for.
        """
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """Read a document.

        Raises:
            IntegrityError: a newer major format, a violation of the schema, or a reference to nothing.
        """
        major = known_major(document)
        check_schema(document, major)
        if major == FIRST:
            document = to_current(document)
        try:
            manifest, unknown = decode(cls, document)
        except ValueError as error:
            raise IntegrityError(f"`edgeq.json` does not follow format {major}: {error}") from error
        check_consistency(document, major)
        return replace(manifest, unknown=unknown)

    @classmethod
    def from_text(cls, text: str | bytes) -> Manifest:
        """Read the contents of `edgeq.json`.

        Raises:
            IntegrityError: it is not JSON in UTF-8 (nor are repeated keys, NaN and numbers beyond float64), or as
                `from_json`.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise IntegrityError(
                f"`edgeq.json` has {len(text)} bytes; at most {MAX_MANIFEST_BYTES} are expected"
            )
        try:
            document = parse(text, max_values=MAX_MANIFEST_VALUES)
        except ValueError as error:
            raise IntegrityError(f"`edgeq.json` is not valid JSON: {error}") from error
        return cls.from_json(document)

    def variant(self, variant_id: str) -> Variant:
        """The variant with this id.

        Raises:
            IntegrityError: there is none.
        """
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.variants)
        raise IntegrityError(f"the bundle has no variant `{variant_id}`; it has {known}")


def known_major(document: Any) -> str:
    """The major version of a document.

    Raises:
        IntegrityError: it does not name this format, or one of a version that is not known here.
    """
    format_ = document.get("format") if isinstance(document, dict) else None
    if not isinstance(format_, dict) or format_.get("name") != FORMAT_NAME:
        raise IntegrityError(
            f"`edgeq.json` does not say that it is an edgeq bundle: format is {format_!r:.80}"
        )
    version = format_.get("version")
    major = str(version).split(".", maxsplit=1)[0]
    if not major.isascii() or not major.isdigit():
        raise IntegrityError(
            f"the bundle's format version is {version!r:.40}; expected one like {FORMAT_VERSION}"
        )
    if major not in MAJORS:
        raise IntegrityError(
            f"the bundle has format {version}; this edgeq reads format {FORMAT_VERSION} and older ones",
            hint="pip install --upgrade edgeq",
        )
    return major
