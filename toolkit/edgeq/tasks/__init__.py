"""What each kind of model is judged by: metrics, floors, answers and labelled data, one entry per kind."""

from edgeq.tasks.entry import Floor, Kind, TaskEntry
from edgeq.tasks.head import Head
from edgeq.tasks.table import LABELLED_METRICS, TASKS, head_of, possible_metrics

__all__ = ["LABELLED_METRICS", "TASKS", "Floor", "Head", "Kind", "TaskEntry", "head_of", "possible_metrics"]
