"""Whether a golden case is a step that a decoder takes: runtimes fail on others in ways of their own, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import IntegrityError
from edgeq.types import Role

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.types import Array, TensorSpec


def check_decoder_case(case: GoldenCase, variant: Variant) -> None:
    """Refuse a case whose inputs are not one step of one sequence, as the variant declares them.

    Raises:
        IntegrityError: names the case and what is wrong.
    """
    problem = next(_problems(case, variant), None)
    if problem is not None:
        raise IntegrityError(f"the golden case `{case.id}` is no step of `{variant.id}`: {problem}")


def _problems(case: GoldenCase, variant: Variant) -> Iterator[str]:
    """Each may rely on what those before it have found right."""
    for spec in variant.inputs:
        if spec.name not in case.feeds:
            yield f"it has no `{spec.name}`"
        yield from _wrong_form(spec, case.feeds[spec.name])
    if unknown := sorted(case.feeds.keys() - {spec.name for spec in variant.inputs}):
        yield f"it has `{unknown[0]}`, which the variant does not take"
    yield from _wrong_lengths(case, variant)
    yield from _unknown_tokens(case, variant)


def _wrong_form(spec: TensorSpec, array: Array) -> Iterator[str]:
    fits = array.ndim == len(spec.shape) and all(
        size == wanted
        for size, wanted in zip(array.shape, spec.shape, strict=True)
        if isinstance(wanted, int)
    )
    if not fits or array.dtype != spec.dtype:
        wanted = ", ".join(str(dim) for dim in spec.shape)
        yield f"`{spec.name}` is {array.dtype} {list(array.shape)}, expected {spec.dtype} [{wanted}]"


def _wrong_lengths(case: GoldenCase, variant: Variant) -> Iterator[str]:
    """Dimensions of one name are of one size, and a mask covers the past and the tokens."""
    sizes: dict[str, int] = {}
    for spec in variant.inputs:
        for dim, size in zip(spec.shape, case.feeds[spec.name].shape, strict=True):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                yield f"`{spec.name}` has {size} of `{dim}`, another input {sizes[dim]}"
    past = next((_length(case, spec) for spec in variant.inputs if spec.role is Role.PAST), 0)
    tokens = sum(_length(case, spec) for spec in variant.inputs if spec.role is Role.TOKEN_IDS)
    if not tokens:
        yield "it has no tokens"
    context = variant.requirements.get("context_length")
    if isinstance(context, int) and past + tokens > context:
        yield f"it has {past + tokens} tokens with the past, and the context is {context}"
    for spec in variant.inputs:
        length = _length(case, spec)
        if spec.role is Role.ATTENTION_MASK and length != past + tokens:
            yield f"`{spec.name}` covers {length} tokens, expected {past} of the past and {tokens} new ones"
        if spec.role is Role.ATTENTION_MASK and not np.all(case.feeds[spec.name] == 1):
            yield f"`{spec.name}` is not 1 at every token, and one sequence needs no padding"
        if case.feeds[spec.name].shape[0] != 1:
            yield f"`{spec.name}` has {case.feeds[spec.name].shape[0]} rows, expected one sequence"


def _length(case: GoldenCase, spec: TensorSpec) -> int:
    """Tokens of an input: `[batch, tokens]`, `[batch, heads, tokens, size]`."""
    return int(case.feeds[spec.name].shape[2 if spec.role is Role.PAST else 1])


def _unknown_tokens(case: GoldenCase, variant: Variant) -> Iterator[str]:
    """Rows that a table does not have may be read as zeros, from its other end, or from beyond it."""
    sizes = [spec.shape[-1] for spec in variant.outputs if spec.role is Role.LOGITS]
    vocabulary = next((size for size in sizes if isinstance(size, int)), None)
    for spec in variant.inputs:
        ids = case.feeds[spec.name]
        if spec.role is not Role.TOKEN_IDS or vocabulary is None:
            continue
        if ids.min() < 0 or ids.max() >= vocabulary:
            outside = ids.min() if ids.min() < 0 else ids.max()
            yield f"`{spec.name}` has the token {outside}, expected 0 to {vocabulary - 1}"
