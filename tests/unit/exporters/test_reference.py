"""The original as the exporter runs it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgeq.errors import ModelError
from edgeq.exporters.reference import one_thread, original
from edgeq.types import Task


def test_it_runs_in_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []

        class Model(torch.nn.Module):
            def forward(self, input_ids: torch.Tensor) -> object:
                seen.append(torch.get_num_threads())
                return SimpleNamespace(last_hidden_state=input_ids.float())

        found = original(Model(), Task.FEATURE_EXTRACTION)({"input_ids": np.zeros((1, 2), np.int64)})
        assert found["last_hidden_state"].shape == (1, 2)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_ids_beyond_the_table_are_a_model_error() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(3, 2)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)

    with pytest.raises(ModelError, match=r"cannot run inputs of shapes .*\[1, 2\]"):
        original(Model(), Task.FEATURE_EXTRACTION)({"input_ids": np.array([[1, 3]])})
    with one_thread():
        assert torch.get_num_threads() == 1
