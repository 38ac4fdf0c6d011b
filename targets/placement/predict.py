"""The predictor: which nodes an accelerator takes, in how many pieces, and why not the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ConfigError
from edgeq.targets.placement import nnapi
from edgeq.targets.placement.coreml import CoreMLOptions, predict_coreml
from edgeq.targets.placement.coreml_rules import COREML_RULES
from edgeq.targets.placement.fix_dims import fix_dims
from edgeq.targets.placement.model_view import GraphView
from edgeq.targets.placement.nnapi_predict import predict_nnapi
from edgeq.targets.placement.optimized import OptimizeError, optimize_level_1
from edgeq.targets.placement.read_model import ModelLike, load_proto, read_graph
from edgeq.targets.placement.report import PlacementReport, Prediction

if TYPE_CHECKING:
    import onnx

TARGETS = ("android", "coreml")


def predict(
    model: ModelLike,
    *,
    target: str,
    dims: Mapping[str, int] | None = None,
    api_level: int = 29,
    coreml_format: str = "MLProgram",
    onnxruntime_release: str = "1.27",
    optimized: bool = True,
) -> PlacementReport:
    """Predict what ONNX Runtime's NNAPI or Core ML provider would take of a model, without a phone.

    Args:
        model: path, proto or onnx_ir model. Weights in external files are not read.
        target: `android` (NNAPI) or `coreml`.
        dims: sizes of named free dimensions of the inputs.
        api_level: Android API level of the phone.
        coreml_format: `MLProgram` or `NeuralNetwork`.
        onnxruntime_release: whose NNAPI rules, a key of `nnapi.RELEASES`.
        optimized: also predict after the installed ONNX Runtime's level-1 optimizations.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: an unknown target, format, release or dimension.
    """
    predictor = predictor_for(
        target, api_level=api_level, coreml_format=coreml_format, onnxruntime_release=onnxruntime_release
    )
    proto, folder = prepare(model, dims)
    as_shipped = predictor(read_graph(proto, base_dir=folder))
    if not optimized:
        return PlacementReport(as_shipped)
    try:
        after = predictor(read_graph(optimize_level_1(proto, folder)))
    except OptimizeError as error:
        return PlacementReport(as_shipped, optimized_skipped=str(error))
    return PlacementReport(as_shipped, after)


def prepare(model: ModelLike, dims: Mapping[str, int] | None) -> tuple[onnx.ModelProto, Path | None]:
    """The model with its dimensions fixed (a caller's own proto is left alone), and its folder."""
    proto, folder = load_proto(model)
    if dims:
        if proto is model:
            import onnx

            proto = onnx.ModelProto()
            proto.CopyFrom(model)
        fix_dims(proto, dims)
    return proto, folder


def predictor_for(
    target: str, *, api_level: int = 29, coreml_format: str = "MLProgram", onnxruntime_release: str = "1.27"
) -> Callable[[GraphView], Prediction]:
    """The predictor of one provider, its options checked.

    Raises:
        ConfigError: an unknown target, format or release.
    """
    _check_choice("target", target, TARGETS)
    if target == "android":
        _check_choice("ONNX Runtime release", onnxruntime_release, tuple(nnapi.RELEASES))
        options = nnapi.NnapiOptions(api_level, onnxruntime_release)
        return lambda graph: predict_nnapi(graph, options)
    _check_choice("Core ML format", coreml_format, tuple(COREML_RULES))
    return lambda graph: predict_coreml(graph, CoreMLOptions(coreml_format))


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} `{value}`, expected one of: {', '.join(known)}")
