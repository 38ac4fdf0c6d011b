"""Postprocessing steps, by the roles of the outputs that they read."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.tasks.entry import Steps
from edgeq.types import Role, TensorSpec


def no_steps(_outputs: Sequence[TensorSpec]) -> tuple[PostprocessStep, ...]:
    """None: the output is the answer."""
    return ()


def steps(
    *kinds: PostprocessKind, roles: tuple[Role, ...] = (Role.LOGITS,), top_k: int | None = None
) -> Steps:
    """These steps, each of which reads the outputs of these roles."""

    def of(outputs: Sequence[TensorSpec]) -> tuple[PostprocessStep, ...]:
        names = {spec.role: spec.name for spec in outputs}
        read = tuple(names[role] for role in roles)
        return tuple(PostprocessStep(kind, read, top_k) for kind in kinds)

    return of
