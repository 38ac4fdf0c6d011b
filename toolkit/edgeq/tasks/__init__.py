"""What each kind of model is judged by: metrics, floors, answers and labelled data, one entry per kind."""

from edgeq.tasks.entry import Floor, Head, Kind, Mode, TaskEntry
from edgeq.tasks.table import (
    LABELLED_METRICS,
    TASKS,
    head_in,
    head_of,
    is_autoregressive,
    mode_of,
    possible_metrics,
)

__all__ = [
    "LABELLED_METRICS",
    "TASKS",
    "Floor",
    "Head",
    "Kind",
    "Mode",
    "TaskEntry",
    "head_in",
    "head_of",
    "is_autoregressive",
    "mode_of",
    "possible_metrics",
]
