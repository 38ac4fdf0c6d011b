"""What bundles of older formats leave open about their heads."""

from __future__ import annotations

from edgeq.bundle.manifest import Manifest
from edgeq.tasks.entry import Kind
from edgeq.tasks.table import head_in
from edgeq.types import Task

BEFORE_PROBLEM_TYPES = "1.0"


def unsaid_kind(manifest: Manifest) -> str | None:
    """Notice on a classifier that may be of several labels at once; None where the bundle says what it is.

    Format 1.1 brought `source.problem_type`. Before, several labels were written with the steps of one.
    """
    source = manifest.source
    if manifest.format.version != BEFORE_PROBLEM_TYPES or source.task is not Task.SEQUENCE_CLASSIFICATION:
        return None
    head = head_in(manifest)
    if source.problem_type is not None or head.entry.kind is not Kind.SINGLE_LABEL:
        return None
    return (
        f"this bundle, of format {manifest.format.version}, does not say whether its labels exclude each other; taken "
        "as single-label; export it again"
    )
