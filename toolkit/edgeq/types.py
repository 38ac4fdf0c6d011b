"""The vocabulary every layer shares: enums and frozen dataclasses. Imports nothing of edgeq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Feeds: TypeAlias = Mapping[str, Array]
"""Model inputs by name."""
Outputs: TypeAlias = dict[str, Array]
"""Model outputs by name."""

ONNX_RUNTIME = "onnxruntime"
"""The runtime of variants that are ONNX files, as manifests name it."""

COMPONENT = "model"
"""What a model that is one graph calls it; several have names of their own."""


class Precision(StrEnum):
    """What a bundle's weights and activations are stored and computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


class Task(StrEnum):
    """What a model computes; decides its outputs and the metrics that matter."""

    FEATURE_EXTRACTION = "feature-extraction"
    SENTENCE_EMBEDDING = "sentence-embedding"
    SEQUENCE_CLASSIFICATION = "sequence-classification"
    TOKEN_CLASSIFICATION = "token-classification"
    QUESTION_ANSWERING = "question-answering"
    FILL_MASK = "fill-mask"
    TEXT_GENERATION = "text-generation"


class ProblemType(StrEnum):
    """What the numbers of a sequence classification head mean, as transformers' `problem_type` says."""

    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"
    REGRESSION = "regression"


class Role(StrEnum):
    """What an input or output of a model means."""

    TOKEN_IDS = "token_ids"
    ATTENTION_MASK = "attention_mask"
    TOKEN_TYPE_IDS = "token_type_ids"
    POSITION_IDS = "position_ids"
    PIXEL_VALUES = "pixel_values"
    INPUT_FEATURES = "input_features"
    PAST = "past"
    PRESENT = "present"
    LOGITS = "logits"
    START_LOGITS = "start_logits"
    END_LOGITS = "end_logits"
    LAST_HIDDEN_STATE = "last_hidden_state"
    SENTENCE_EMBEDDING = "sentence_embedding"
    OTHER = "other"


class Verification(StrEnum):
    """How a number was obtained, weakest first (compare with `rank`)."""

    STRUCTURE = "structure"
    SIMULATED = "simulated"
    EXECUTED_OTHER_ARCH = "executed-other-arch"
    EXECUTED_ARM64_EMULATED = "executed-arm64-emulated"
    EXECUTED = "executed"

    @property
    def rank(self) -> int:
        """Position in the order from `structure` (0) to `executed` (4)."""
        return list(type(self)).index(self)


Dim: TypeAlias = int | str
"""A dimension: a number, or the name of a free one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model: `dtype` is a numpy name, a free dimension is a string."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    role: Role = Role.OTHER


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the original model."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Where a model came from; `problem_type` as its config has it, None where that does not say."""

    model: str
    revision: str | None
    files: tuple[SourceFile, ...]
    license: str | None
    task: Task
    architecture: str
    parameters: int
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
