"""Bundles of models that write token by token: of a graph with a cache, or of the checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeq.pipeline.generation.data import text_counts
from edgeq.pipeline.generation.file_maker import open_checkpoint
from edgeq.pipeline.generation.graph_maker import open_graph
from edgeq.pipeline.generation.planning import plan_language_model
from edgeq.pipeline.make import Way
from edgeq.targets import get_target

if TYPE_CHECKING:
    from edgeq.pipeline.make import Maker
    from edgeq.pipeline.plan import ExportPlan
    from edgeq.progress import Progress


def open_models(plan: ExportPlan, progress: Progress) -> Iterator[tuple[str, Maker]]:
    """Each target with its maker; every way to make files loads the model once, and one after the other.

    Raises:
        EdgeqError: see `edgeq.pipeline.export.run_export`.
    """
    graphs = [name for name in plan.destinations if get_target(name).made_from == "graph"]
    if graphs:
        yield from _shared(open_graph(plan, progress), graphs)
    files = [name for name in plan.destinations if name not in graphs]
    if files:
        yield from _shared(open_checkpoint(plan, progress), files)


def _shared(maker: Maker, targets: Sequence[str]) -> Iterator[tuple[str, Maker]]:
    yield from ((name, maker) for name in targets)


AUTOREGRESSIVE = Way(plan_language_model, text_counts, open_models)
