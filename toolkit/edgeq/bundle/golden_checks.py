"""Whether a golden case is one: whoever changed its arrays made the hashes too, and what it lacks is not compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.errors import IntegrityError
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS, KNOWN_INPUTS

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate
    from edgeq.types import Array

NUMBERS, INTEGERS = "biuf", "iu"
"""Kinds of numpy types."""


def check_case(case: GoldenCase, tolerances: Sequence[Gate]) -> None:
    """Refuse a case that holds no outputs, arrays of another form, or not what the manifest bounds in it.

    Raises:
        IntegrityError: names the case and what is wrong.
    """
    problem = next(_problems(case, tolerances), None)
    if problem is not None:
        raise IntegrityError(f"the golden case `{case.id}` cannot be compared with: {problem}")


def _problems(case: GoldenCase, tolerances: Sequence[Gate]) -> Iterator[str]:
    yield from _wrong_types(case)
    yield from _wrong_tokens(case)
    yield from _nothing_recorded(case)
    if case.positions is not None:
        yield from _wrong_positions(case, case.positions)
    yield from _nothing_real(case)
    for gate in tolerances:
        if gate.output not in case.outputs.get(gate.variant, {}):
            yield f"the manifest bounds {gate.metric} of `{gate.output}` of `{gate.variant}`, which it does not hold"


def _wrong_types(case: GoldenCase) -> Iterator[str]:
    arrays = [*case.feeds.items(), *_recorded(case)]
    for name, array in arrays:
        if array.dtype.kind not in NUMBERS:
            yield f"`{name}` has the type {array.dtype}, expected numbers"


def _wrong_tokens(case: GoldenCase) -> Iterator[str]:
    for name in KNOWN_INPUTS:
        array = case.feeds.get(name)
        if array is not None and (array.ndim != 2 or array.dtype.kind not in INTEGERS):
            yield f"`{name}` is {array.dtype} {list(array.shape)}, expected integers [batch, sequence]"


def _nothing_recorded(case: GoldenCase) -> Iterator[str]:
    if not case.outputs:
        yield "it holds outputs of no variant"
    for name, array in _recorded(case):
        if not array.size:
            yield f"`{name}` of shape {list(array.shape)} is empty"


def _wrong_positions(case: GoldenCase, positions: Array) -> Iterator[str]:
    if positions.ndim != 1 or positions.dtype.kind not in INTEGERS:
        yield f"`positions` is {positions.dtype} {list(positions.shape)}, expected a list of integers"
    elif not positions.size:
        yield "`positions` is empty"
    elif (length := _length(case)) is None:
        yield "it has `positions`, and no input has a sequence"
    elif positions.min() < 0 or positions.max() >= length:
        yield f"`positions` go from {positions.min()} to {positions.max()}, expected 0 to {length - 1}"


def _nothing_real(case: GoldenCase) -> Iterator[str]:
    """All that is padding is compared nowhere."""
    ids, mask = case.feeds.get(INPUT_IDS), case.feeds.get(ATTENTION_MASK)
    if ids is None or mask is None or ids.shape != mask.shape:
        return
    kept = mask if case.positions is None else mask[:, case.positions]
    if not np.any(kept):
        yield "no recorded token is real: `attention_mask` is 0 at all of them"


def _length(case: GoldenCase) -> int | None:
    ids = case.feeds.get(INPUT_IDS)
    inputs = [*([] if ids is None else [ids]), *case.feeds.values()]
    return next((int(array.shape[1]) for array in inputs if array.ndim > 1), None)


def _recorded(case: GoldenCase) -> Iterator[tuple[str, Array]]:
    for name, array in case.reference.items():
        yield f"reference/{name}", array
    for variant, outputs in case.outputs.items():
        for name, array in outputs.items():
            yield f"outputs/{variant}/{name}", array
