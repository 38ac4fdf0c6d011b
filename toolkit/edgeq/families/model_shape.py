"""The shape of a model: what its config says about its parameters, without a single weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from edgeq.errors import ModelError

Matrix: TypeAlias = tuple[str, tuple[int, int]]
"""Module path and `(in_features, out_features)`; for a table `(columns, rows)`."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Parameters and activations of a transformer.

    Attributes:
        architecture: Hugging Face `model_type`.
        matrices: linear layers and embedding tables in model order; shared ones once.
        vectors: parameters outside of matrices: biases and normalization.
        tied: tables that are also the output head.
        hidden: width of the residual stream.
        layers: how many are run (ALBERT runs one set of weights several times).
        heads: of attention.
        head_dim: per head.
        inner: width between the feed-forward matrices.
        vocab: tokens.
        positions: longest sequence; None where the config sets no limit.
        kv_heads: heads that are cached; 0 for an encoder.
        causal: generates text.
    """

    architecture: str
    matrices: tuple[Matrix, ...]
    vectors: int
    hidden: int
    layers: int
    heads: int
    head_dim: int
    inner: int
    vocab: int
    positions: int | None
    tied: tuple[str, ...] = ()
    kv_heads: int = 0
    causal: bool = False

    @property
    def parameters(self) -> int:
        """All of them, shared ones once."""
        return self.vectors + sum(rows * columns for _, (rows, columns) in self.matrices)

    def with_parts(
        self, matrices: tuple[Matrix, ...], vectors: int = 0, tied: tuple[str, ...] = ()
    ) -> ModelShape:
        """The same model with a head on top."""
        return replace(
            self,
            matrices=(*self.matrices, *matrices),
            vectors=self.vectors + vectors,
            tied=(*self.tied, *tied),
        )


class SizeConfig:
    """`config.json` with errors that name the file's owner.

    Args:
        values: its keys.
        model: what the user named.
    """

    def __init__(self, values: Mapping[str, Any], model: str) -> None:
        self._values = values
        self._model = model

    def size(self, *names: str) -> int:
        """A positive whole number under the first of these names that is there.

        Raises:
            ModelError: none is, or it is no positive number.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if type(value) is not int or value < 1:
                raise ModelError(
                    f"`{name}` in config.json of `{self._model}` is {value!r}; expected a number above 0"
                )
            return value
        raise ModelError(f"config.json of `{self._model}` has no `{names[0]}`, which its size depends on")

    def size_or(self, name: str, default: int) -> int:
        """The same, with what the architecture's class takes when the key is not there."""
        return default if self._values.get(name) in (None, 0) else self.size(name)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        return bool(self._values.get(name, default))

    def get(self, name: str, default: Any = None) -> Any:
        """Anything else."""
        return self._values.get(name, default)


def linear(path: str, in_features: int, out_features: int) -> Matrix:
    """A linear layer's weight."""
    return path, (in_features, out_features)


def table(path: str, rows: int, columns: int) -> Matrix:
    """An embedding table."""
    return path, (columns, rows)
