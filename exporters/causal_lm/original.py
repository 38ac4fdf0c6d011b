"""A causal language model as its checkpoint has it: for targets whose files are made of tensors, not of a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.base import Logits
from edgeq.exporters.causal_lm.streamed_forward import Replacement, streamed_logits
from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.quantize.streaming import StoredTensor
from edgeq.quantize.weight_only import LayerStats
from edgeq.types import Array, FloatArray, SourceInfo

if TYPE_CHECKING:
    import torch

    from edgeq.processors.text import TextPreprocessor
    from edgeq.runtime.generation.settings import GenerationSettings

Rounding: TypeAlias = Callable[[FloatArray], FloatArray]
"""Rows `[tokens, K]` to what a runtime makes of them before it multiplies."""
BATCH_TOKENS = 512
"""Tokens run through the original at a time while its inputs are observed: each has logits of the whole vocabulary."""


@dataclass(frozen=True, slots=True, eq=False)
class OriginalLanguageModel:
    """A causal language model whose matrices are read from disk as it runs.

    Attributes:
        source: provenance.
        preprocessor: tokenization.
        settings: context length, stop tokens, defaults, chat template, cache.
        weights: where its parameters are; temporary files among them go when they do.
        model: the transformers model, without matrices.
        notices: what the user should know about its files.
        reference: its logits.
    """

    source: SourceInfo
    preprocessor: TextPreprocessor
    settings: GenerationSettings
    weights: DecoderWeights
    model: Any = field(repr=False)
    notices: tuple[str, ...] = ()
    reference: Logits = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make it runnable."""
        object.__setattr__(self, "reference", streamed_logits(self.model, self.weights))

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the model, the defaults of its class filled in."""
        found: dict[str, Any] = self.model.config.to_dict()
        return found

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """By the name of the parameter; tied ones once."""
        return {name: self.weights[name] for name, _ in self.model.named_parameters()}

    def with_weights(
        self, values: Mapping[str, FloatArray], rounding: Mapping[str, Rounding] | None = None
    ) -> Logits:
        """The same model with other values for some of its parameters, beside the original.

        Args:
            values: by parameter name; matrices are looked up when they are needed, again and again if the model is
                too large to keep them.
            rounding: what a runtime does to the rows `[tokens, K]` that some weights are multiplied with.

        Raises:
            ModelError: there is no such parameter, or (for a matrix when it is looked up) its shape is another.
        """
        import torch

        model = copy.deepcopy(self.model)
        for name, change in (rounding or {}).items():
            module_of(model, name).register_forward_pre_hook(_rounding_hook(change))
        parameters = dict(model.named_parameters())
        matrices = {}
        for name in values:
            if name not in parameters:
                raise ModelError(f"the model has no parameter `{name}`")
            found = parameters[name]
            matrix = Replacement(name, tuple(found.shape), values)
            if found.is_meta:
                matrices[name] = matrix
            else:
                with torch.no_grad():
                    found.copy_(torch.from_numpy(matrix.values()))
        return streamed_logits(model, self.weights, matrices)

    def observe(
        self,
        parameters: Sequence[str],
        windows: Array,
        *,
        gram: bool,
        advance: Callable[[], None] = lambda: None,
    ) -> dict[str, LayerStats]:
        """Statistics of the inputs that some weights are multiplied with.

        Args:
            parameters: weights of linear layers.
            windows: token ids `[windows, tokens]`, each run from an empty cache.
            gram: collect X^T X too.
            advance: called after each batch.

        Returns:
            By parameter; parameters that read the same activation share one object.
        """
        groups = self._groups(parameters, windows[:1, :2])
        collected = {group[0]: _Sums(gram) for group in groups}
        hooks = [
            module_of(self.model, name).register_forward_pre_hook(sums.hook)
            for name, sums in collected.items()
        ]
        step = max(1, BATCH_TOKENS // windows.shape[1])
        try:
            for start in range(0, len(windows), step):
                self.reference(windows[start : start + step])
                advance()
        finally:
            for hook in hooks:
                hook.remove()
        found: dict[str, LayerStats] = {}
        for group in groups:
            found |= dict.fromkeys(group, collected[group[0]].stats())
        return found

    def _groups(self, parameters: Sequence[str], probe: Array) -> list[list[str]]:
        """Weights that read the very same activation, found by one short run."""
        seen: list[tuple[torch.Tensor, list[str]]] = []

        def remember(name: str, value: torch.Tensor) -> None:
            for tensor, names in seen:
                if tensor is value:
                    names.append(name)
                    return
            seen.append((value, [name]))

        hooks = [
            module_of(self.model, name).register_forward_pre_hook(
                lambda _, inputs, name=name: remember(name, inputs[0])
            )
            for name in parameters
        ]
        try:
            self.reference(probe)
        finally:
            for hook in hooks:
                hook.remove()
        return [names for _, names in seen]


def module_of(model: Any, parameter: str) -> Any:
    """The module that multiplies with a weight; a tied table's is the head."""
    head = model.get_output_embeddings()
    module = model.get_submodule(parameter.removesuffix(".weight"))
    tied = head is not None and module is not head and module.weight is head.weight
    return head if tied else module


def _rounding_hook(change: Rounding) -> Callable[[Any, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        import torch

        value = inputs[0]
        rounded = change(value.reshape(-1, value.shape[-1]).numpy())
        return (torch.from_numpy(rounded).reshape(value.shape), *inputs[1:])

    return hook


class _Sums:
    """E[x^2] per channel, and X^T X, of everything that goes into one module."""

    def __init__(self, gram: bool) -> None:
        self._wants_gram = gram
        self._tokens = 0
        self._squares: Array | None = None
        self._gram: Array | None = None

    def hook(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """Of a module about to run."""
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float().numpy()
        self._tokens += len(rows)
        squares = np.square(rows, dtype=np.float64).sum(0)
        self._squares = squares if self._squares is None else self._squares + squares
        if self._wants_gram:
            # Products of one batch in float32, their sum over batches in float64.
            product = rows.T @ rows
            self._gram = product.astype(np.float64) if self._gram is None else self._gram + product

    def stats(self) -> LayerStats:
        """What was collected."""
        assert self._squares is not None
        mean: FloatArray = (self._squares / max(self._tokens, 1)).astype(np.float32)
        return LayerStats(mean, self._tokens, self._gram)
