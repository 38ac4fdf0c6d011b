"""Compare with ONNX Runtime's mobile usability checker, node by node.

The checker looks an operator's name up in a table and asks for fixed shapes; it does not know types,
attributes, constants, QDQ groups or the provider's filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.errors import UnsupportedError
from edgeq.targets.placement.model_view import GraphView
from edgeq.targets.placement.optimized import OptimizeError, optimize_level_1
from edgeq.targets.placement.predict import predictor_for, prepare
from edgeq.targets.placement.read_model import ModelLike, infer_shapes, read_graph
from edgeq.targets.placement.report import Prediction

if TYPE_CHECKING:
    import onnx

_TABLES = {
    "MLProgram": "coreml_supported_mlprogram_ops.md",
    "NeuralNetwork": "coreml_supported_neuralnetwork_ops.md",
}
_NOT_IN_TABLE = "missing from the checker's table, but the provider has an implementation"


@dataclass(frozen=True, slots=True)
class Difference:
    """A node the two judge differently; `reason` is ours."""

    node: str
    op: str
    checker_takes: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `check --explain --json` prints it."""
        return {"node": self.node, "op": self.op, "checker_takes": self.checker_takes, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the usability checker says of the optimized graph, beside our prediction.

    Attributes:
        nodes: nodes the checker counts.
        taken: nodes it says are supported.
        partitions: partitions it sees.
        verdict: `YES`, `MAYBE` or `NO`.
        ours: our prediction for the same graph.
        differences: nodes judged differently.
    """

    nodes: int
    taken: int
    partitions: int
    verdict: str
    ours: Prediction
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """As `check --explain --json` prints it."""
        return {
            "nodes": self.nodes,
            "taken": self.taken,
            "partitions": self.partitions,
            "verdict": self.verdict,
            "differences": [difference.to_json() for difference in self.differences],
        }


def compare_with_usability_checker(
    model: ModelLike,
    *,
    target: str,
    dims: Mapping[str, int] | None = None,
    api_level: int = 29,
    coreml_format: str = "MLProgram",
    onnxruntime_release: str = "1.27",
) -> Comparison:
    """Both verdicts on the graph after level-1 optimization, and where they differ.

    Raises:
        UnsupportedError: the installed ONNX Runtime has no usability checker.
    """
    predictor = predictor_for(
        target, api_level=api_level, coreml_format=coreml_format, onnxruntime_release=onnxruntime_release
    )
    proto, folder = prepare(model, dims)
    # Where the checker itself would stop, the graph as shipped can still be compared.
    with suppress(OptimizeError):
        proto, folder = optimize_level_1(proto, folder), None
    graph = read_graph(proto, base_dir=folder)
    ours = predictor(graph)
    info = _run_checker(proto, target, coreml_format)
    theirs = {node.output[0] for group in info.supported_groups for node in group}
    return Comparison(
        nodes=info.num_nodes,
        taken=info.num_supported_nodes,
        partitions=info.num_partitions,
        verdict=info.suitability().name,
        ours=ours,
        differences=_differences(ours, theirs, graph),
    )


def _differences(ours: Prediction, theirs: set[str], graph: GraphView) -> tuple[Difference, ...]:
    nodes = {node.name: node for node in graph.nodes}
    too_kind = [
        Difference(refused.node, refused.op, True, refused.reason)
        for refused in ours.refused
        if nodes[refused.node].outputs[0] in theirs
    ]
    taken = [nodes[name] for group in ours.partition_nodes for name in group]
    too_strict = [
        Difference(node.name, node.op_type, False, _NOT_IN_TABLE)
        for node in taken
        if node.outputs[0] not in theirs
    ]
    return (*too_kind, *too_strict)


def _run_checker(proto: onnx.ModelProto, target: str, coreml_format: str) -> Any:
    try:
        from onnxruntime.tools.mobile_helpers import usability_checker
    except ImportError as error:
        raise UnsupportedError(
            f"this ONNX Runtime has no usability checker: {error}", hint="leave --explain out"
        ) from error
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    with_shapes = infer_shapes(proto, proto.graph.node, tensors)
    if target == "android":
        return usability_checker.check_nnapi_partitions(with_shapes, True)
    return usability_checker.check_coreml_partitions(with_shapes, True, _TABLES[coreml_format])
