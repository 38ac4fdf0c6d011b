"""The float32 graph against the original model, on real text, before anything else is done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError, OutputError
from edgeq.graph.component import SEQUENCE
from edgeq.memory import free_memory
from edgeq.onnx_runtime import session_options
from edgeq.samples import Text
from edgeq.scratch import scratch_folder
from edgeq.types import Array, Feeds, Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.processors.text import TextPreprocessor

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest absolute value of the output."""

HALF_TOLERANCE = 2e-2
"""The same, beside an original that rounds every layer to half precision, or to less: ten layers of 2^-11 and more."""

_REPORT = "please report this model; it must not be shipped"

LONG_TEXT_TOKENS = 512
"""Length of the first long text of the check, or the model's own limit if that is less."""

BYTES_PER_SCORE = 4 * 6
"""Memory of one attention score while a layer runs in both: scores, their bias and their softmax, in float32."""
MEMORY_SHARE = 0.5
"""Of the free memory, what the longest text may take."""

DEFAULT_HEADS = 16
"""Attention heads of a layer where nobody says how many there are."""

PROBES = (
    "The ferry leaves at half past nine.",
    "Why is the sky blue?",
    "Mix the flour with two eggs, a pinch of salt and enough milk to make a smooth batter, then let it rest.",
    "No.",
    "Quarterly revenue rose 4.2 % to $1.3 billion, although the company had warned in May that the weak yen, "
    "higher freight rates and a fire in its main warehouse would cost it most of the growth it had promised.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Die Bibliothek ist montags geschlossen, ¿pero abre los domingos?",
)
"""Short and long, several domains and alphabets: a batch of them is ragged."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The worst difference of one output, relative to its scale, and where it is."""

    output: str
    relative: float
    position: tuple[int, ...]
    expected: float
    got: float


def run_graph(canonical: Component) -> Callable[[Feeds], Outputs]:
    """A function that runs the canonical graph in ONNX Runtime.

    Raises:
        ModelError: it cannot be loaded; from the function, that it cannot run the feeds.
        OutputError: the temporary folder is full or not writable.
    """
    import onnx_ir as ir
    import onnxruntime as ort

    with scratch_folder("equivalence") as folder:
        path = folder / "model.onnx"
        try:
            # Saving moves the weights into the model on disk; a clone keeps the caller's in memory.
            ir.save(canonical.model.clone(), path, external_data="weights.bin")
        except OSError as error:
            raise OutputError(
                f"cannot write the graph to the temporary folder `{folder}`: {error}",
                hint="free some space there, or choose another --output",
            ) from error
        try:
            session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a family of its own
            raise ModelError(
                f"ONNX Runtime cannot load the converted graph: {error}", hint=_REPORT
            ) from error
    names = [spec.name for spec in canonical.outputs]

    def run(feeds: Feeds) -> Outputs:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # the same family
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ModelError(
                f"the converted graph cannot run inputs of shapes {shapes}: {error}", hint=_REPORT
            ) from error

    return run


def check_equivalence(
    canonical: Component,
    preprocessor: TextPreprocessor,
    reference: Callable[[Feeds], Outputs],
    *,
    longest: int | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Difference, ...]:
    """Compare the graph with the original model on a ragged batch, on two sentences alone, and on long texts.

    The last one has the most tokens that the model takes: positions, windows and masks show their errors far from the
    beginning, and no sooner than where they end.

    Args:
        canonical: the graph.
        preprocessor: of the model, at its full length.
        reference: the original.
        longest: tokens of the longest text; by default as many as the model takes.
        tolerance: largest difference, relative to the scale of the output.

    Returns:
        The worst difference of every output.

    Raises:
        ModelError: one of them is above the tolerance, or not a number.
    """
    run = run_graph(canonical)
    worst: dict[str, Difference] = {}
    for length, texts in _texts(longest or preprocessor.max_length):
        feeds = preprocessor.fit(min(preprocessor.max_length, length))([Text(text) for text in texts])
        for found in compare(canonical.outputs, reference(feeds), run(feeds), feeds["attention_mask"]):
            kept = worst.setdefault(found.output, found)
            if not found.relative <= kept.relative:
                worst[found.output] = found
        # Each is judged before a longer one takes its time.
        _refuse(max(worst.values(), key=lambda difference: _sortable(difference.relative)), tolerance)
    return tuple(worst.values())


def unchecked_lengths(longest: int, max_length: int) -> tuple[str, ...]:
    """What `check_equivalence` left out, for people."""
    if longest >= max_length:
        return ()
    return (
        f"the graph was compared with the original up to {longest} of {max_length} tokens: a longer text does not fit "
        "into the free memory of this machine; --seq-len bounds what the bundle takes",
    )


def _texts(longest: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Most tokens, and the texts of one comparison."""
    for texts in (PROBES, PROBES[:1], PROBES[4:5]):
        yield LONG_TEXT_TOKENS, texts
    for length in dict.fromkeys((min(LONG_TEXT_TOKENS, longest), longest)):
        # A token is a character at least, and mostly four.
        yield length, (" ".join(PROBES * (length // 64 + 1)),)


def longest_that_fits(length: int, heads: int) -> int:
    """At most this many tokens, and so few that the scores of a layer fit into memory; the usual long text at least."""
    free = free_memory()
    if free is None:
        return length
    fits = int((free * MEMORY_SHARE / (BYTES_PER_SCORE * heads)) ** 0.5)
    return min(length, max(fits, LONG_TEXT_TOKENS))


def _sortable(relative: float) -> float:
    return float("inf") if np.isnan(relative) else relative


def _refuse(worst: Difference, tolerance: float) -> None:
    # Written so that NaN fails too.
    if not worst.relative <= tolerance:
        raise ModelError(
            f"the exported graph does not compute what the model does: output {worst.output} at "
            f"{worst.position} is {worst.got:.6g}, expected {worst.expected:.6g}, a difference of "
            f"{worst.relative:.2g} of the output's scale where {tolerance:g} is allowed",
            hint=_REPORT,
        )


def compare(specs: tuple[TensorSpec, ...], expected: Outputs, got: Outputs, mask: Array) -> list[Difference]:
    """The worst difference of each output on positions that are not padding."""
    return [_compare_one(spec, expected[spec.name], got[spec.name], mask) for spec in specs]


def _compare_one(spec: TensorSpec, expected: Array, got: Array, mask: Array) -> Difference:
    if expected.shape != got.shape:
        raise ModelError(f"output {spec.name} of the graph has shape {got.shape}, expected {expected.shape}")
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    counted = _counted(spec, expected.shape, mask)
    scale = float(np.abs(expected[counted]).max())
    if not np.isfinite(scale):
        raise ModelError(
            f"the original model returns NaN or infinite values in {spec.name} for ordinary texts",
            hint="its weights are damaged, or too large for float32",
        )
    # NaN sorts above every number in argmax, which is what must be reported.
    position = tuple(
        int(i) for i in np.unravel_index(np.argmax(np.where(counted, difference, -1.0)), expected.shape)
    )
    relative = float(difference[position]) / scale if scale else float(difference[position])
    return Difference(spec.name, relative, position, float(expected[position]), float(got[position]))


def _counted(spec: TensorSpec, shape: tuple[int, ...], mask: Array) -> Array:
    if len(spec.shape) < 2 or spec.shape[1] != SEQUENCE:
        return np.ones(shape, bool)
    return np.broadcast_to(mask.astype(bool).reshape(*mask.shape, *[1] * (len(shape) - 2)), shape)
