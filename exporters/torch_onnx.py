"""The one place that calls `transformers.exporters`, which is experimental and patches torch as it runs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.graph.component import BATCH, CANONICAL_OPSET, SEQUENCE

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

# torch.export specializes a dimension whose example is 1, and one that equals another: all differ, none is 1.
EXAMPLE_BATCH, EXAMPLE_SEQUENCE = 2, 7


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep prints, logs and warnings of torch and onnxscript about their own internals off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # stderr stays open for the progress of edgeq: torch prints to stdout, and logs.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _dynamic_shapes(names: Sequence[str], longest: int) -> dict[str, dict[int, Any]]:
    from torch.export import Dim

    batch, sequence = Dim(BATCH, min=1, max=65536), Dim(SEQUENCE, min=1, max=longest)
    return {name: {0: batch, 1: sequence} for name in names}


def export_encoder(encoder: torch.nn.Module, input_names: Sequence[str], longest: int) -> ir.Model:
    """Trace a text encoder into an ONNX graph whose batch and sequence are free.

    Args:
        encoder: takes `input_names` as int64 `[batch, sequence]` tensors and returns a dict of outputs.
        input_names: `input_ids`, `attention_mask` and perhaps `token_type_ids`.
        longest: largest sequence the model takes.

    Raises:
        ModelError: torch cannot trace the model.
    """
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    inputs = {name: torch.ones(EXAMPLE_BATCH, EXAMPLE_SEQUENCE, dtype=torch.int64) for name in input_names}
    config = OnnxConfig(
        dynamic=True, dynamic_shapes=_dynamic_shapes(input_names, longest), opset_version=CANONICAL_OPSET
    )
    try:
        with quiet():
            exported = OnnxExporter().export(encoder, inputs, config)
    except Exception as error:  # whatever tracing trips over, the user can only take another model or task
        raise ModelError(f"torch cannot trace the model: {type(error).__name__}: {error}") from error
    model: ir.Model = exported.program
    return model
