"""The text on which a language model is compared with its original."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgeq.errors import DataError
from edgeq.pipeline.generation.against_original import open_live
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.progress import SilentProgress


def test_tensors_are_refused_before_the_original_is_loaded(tmp_path: Path) -> None:
    data = tmp_path / "rows.npz"
    ids = np.arange(32).reshape(8, 4)
    np.savez(data, input_ids=ids, attention_mask=np.ones_like(ids))
    request = ValidationRequest(tmp_path, against=str(tmp_path / "none"), data=str(data))
    with pytest.raises(DataError, match="holds tensors, expected texts"):
        open_live((), cast(Any, None), cast(Any, None), request, SilentProgress())
