"""What a prediction says: plain data, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RefusedNode:
    """A node that stays on the CPU."""

    node: str
    op: str
    reason: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        return {"node": self.node, "op": self.op, "reason": self.reason, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Landmine:
    """Something the support check lets pass and that then fails on the device: no fallback, no session.

    Attributes:
        code: stable identifier, see docs/placement.md.
        nodes: nodes involved.
        problem: what was found.
        device: what the device would do.
        fix: what to change.
    """

    code: str
    nodes: tuple[str, ...]
    problem: str
    device: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        return {
            "code": self.code,
            "nodes": list(self.nodes),
            "problem": self.problem,
            "device": self.device,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an accelerator takes of one graph.

    Attributes:
        target: `android` or `coreml`.
        nodes: nodes of the main graph as the provider sees it (Constants lifted, shared DQs duplicated).
        taken: how many of them run on the accelerator.
        partition_nodes: node names of each partition, in topological order.
        min_version: lowest Android API level or Core ML version that takes the same nodes, None without any.
        refused: nodes left on the CPU.
        landmines: patterns that make session creation fail.
        opset: the model's version of the standard operator set.
        units: node units (a QDQ group counts once).
        expanded_operations: NNAPI operations the taken nodes become; None for Core ML.
        notes: what else a reader should know.
    """

    target: str
    nodes: int
    taken: int
    partition_nodes: tuple[tuple[str, ...], ...]
    min_version: int | None
    refused: tuple[RefusedNode, ...]
    landmines: tuple[Landmine, ...]
    opset: int
    units: int
    expanded_operations: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def partitions(self) -> int:
        """How many pieces the accelerated part is cut into."""
        return len(self.partition_nodes)

    @property
    def is_full(self) -> bool:
        """Whether everything runs in one partition and nothing would fail on the device."""
        return self.partitions == 1 and self.taken == self.nodes and not self.landmines

    @property
    def min_android_api(self) -> int | None:
        """Android API level needed; None for other targets."""
        return self.min_version if self.target == "android" else None

    @property
    def min_coreml(self) -> int | None:
        """Core ML version needed; None for other targets."""
        return self.min_version if self.target == "coreml" else None

    def reasons(self) -> dict[str, int]:
        """How often each operator was refused for each reason, most frequent first."""
        counts: dict[str, int] = {}
        for refused in self.refused:
            key = f"{refused.op}: {refused.reason}"
            counts[key] = counts.get(key, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        document: dict[str, Any] = {
            "target": self.target,
            "nodes": self.nodes,
            "taken": self.taken,
            "partitions": self.partitions,
            "partition_sizes": [len(nodes) for nodes in self.partition_nodes],
            "full": self.is_full,
            "opset": self.opset,
            "refused": [refused.to_json() for refused in self.refused],
            "landmines": [landmine.to_json() for landmine in self.landmines],
            "notes": list(self.notes),
        }
        if self.target == "android":
            document["min_android_api"] = self.min_version
            document["nnapi_operations"] = self.expanded_operations
        else:
            document["min_coreml"] = self.min_version
        return document


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """The prediction for a model as shipped, and after ONNX Runtime's own level-1 optimizations.

    The second is what happens on the phone when the app loads an `.onnx` file at ORT_ENABLE_BASIC or above;
    the first holds for ORT_DISABLE_ALL and for `.ort` files. Attributes of the first are here too.
    """

    as_shipped: Prediction
    optimized: Prediction | None = None
    optimized_skipped: str | None = None
    """Why there is no second prediction."""

    @property
    def target(self) -> str:
        """`android` or `coreml`."""
        return self.as_shipped.target

    @property
    def nodes(self) -> int:
        """Nodes as shipped."""
        return self.as_shipped.nodes

    @property
    def taken(self) -> int:
        """Nodes taken as shipped."""
        return self.as_shipped.taken

    @property
    def partitions(self) -> int:
        """Partitions as shipped."""
        return self.as_shipped.partitions

    @property
    def refused(self) -> tuple[RefusedNode, ...]:
        """Refused nodes as shipped."""
        return self.as_shipped.refused

    @property
    def landmines(self) -> tuple[Landmine, ...]:
        """Landmines as shipped and those that only the optimizer brings in."""
        later = self.optimized.landmines if self.optimized else ()
        return (
            *self.as_shipped.landmines,
            *(mine for mine in later if mine not in self.as_shipped.landmines),
        )

    @property
    def min_android_api(self) -> int | None:
        """Android API level needed by either form."""
        return _highest(self, "min_android_api")

    @property
    def min_coreml(self) -> int | None:
        """Core ML version needed by either form."""
        return _highest(self, "min_coreml")

    @property
    def is_full(self) -> bool:
        """Whether one partition takes everything, as shipped and (where predicted) optimized."""
        return self.as_shipped.is_full and (self.optimized is None or self.optimized.is_full)

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it: as shipped, and the same under `optimized`."""
        document = self.as_shipped.to_json()
        document["optimized"] = self.optimized.to_json() if self.optimized else None
        if self.optimized_skipped:
            document["optimized_skipped"] = self.optimized_skipped
        return document


def _highest(report: PlacementReport, name: str) -> int | None:
    forms = [report.as_shipped, *([report.optimized] if report.optimized else [])]
    return max((version for form in forms if (version := getattr(form, name)) is not None), default=None)
