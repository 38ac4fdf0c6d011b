"""Sentence-transformers folders: the modules after the transformer, read from `modules.json`.

The formulas are those of sentence-transformers (Reimers and Gurevych, arXiv:1908.10084); the modules here
take a float mask `[batch, sequence]` and use sums and products only, so that every target can run them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.modules import module

if TYPE_CHECKING:
    import torch

POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of a pooling module's `config.json`, in the order their vectors are joined, and the newer names."""


@dataclass(frozen=True, slots=True)
class SentenceModule:
    """One module after the transformer: `Pooling`, `Dense`, `LayerNorm` or `Normalize`."""

    kind: str
    folder: Path
    modes: tuple[str, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds weights of its own."""
        return self.kind in ("Dense", "LayerNorm")


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """What `modules.json` says.

    Attributes:
        transformer: folder of the transformer itself.
        modules: what comes after it, in order; pooling first.
        max_length: `max_seq_length` of the transformer, if it is set.
    """

    transformer: Path
    modules: tuple[SentenceModule, ...]
    max_length: int | None


def read_sentence_model(folder: Path) -> SentenceModel | None:
    """Read `modules.json` of a sentence-transformers folder; None where there is none.

    Raises:
        ModelError: it lists modules that cannot be put into a graph.
    """
    if not (folder / "modules.json").is_file():
        return None
    entries = _read_entries(folder / "modules.json")
    kinds = [kind for kind, _ in entries]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelError(
            f"modules.json in `{folder}` starts with {kinds[:2]}, expected Transformer and Pooling",
            hint="export the transformer alone with --task feature-extraction",
        )
    transformer = entries[0][1]
    modules = tuple(_read_module(kind, place) for kind, place in entries[1:])
    return SentenceModel(
        transformer, tuple(m for m in modules if m.kind != "Dropout"), _max_length(transformer)
    )


def _read_entries(path: Path) -> list[tuple[str, Path]]:
    """Kind and folder of every module, in order; the folders stay inside the model's."""
    entries = read_json(path)
    try:
        ordered = sorted(entries, key=lambda entry: int(entry["idx"]))
        named = [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in ordered]
    except (LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"`{path}` is malformed ({type(error).__name__}: {error}), expected a list of modules with idx, type "
            "and path",
            hint="download the model again",
        ) from error
    return [(kind, _inside(path, place)) for kind, place in named]


def _inside(path: Path, place: str) -> Path:
    plain = PurePosixPath(place)
    if plain.is_absolute() or ".." in plain.parts:
        raise ModelError(f"`{path}` names the folder `{place}`, expected one inside the model's")
    return path.parent / plain


def read_json(path: Path) -> Any:
    """Parse a JSON file of a model folder.

    Raises:
        ModelError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read `{path}`: {error}", hint="download the model again") from error


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        ModelError: it holds something else, or the file is not JSON.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelError(f"`{path}` holds a {type(found).__name__}, expected a JSON object")
    return found


def _max_length(transformer: Path) -> int | None:
    path = transformer / "sentence_bert_config.json"
    length = read_object(path).get("max_seq_length") if path.is_file() else None
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ModelError(f"max_seq_length in `{path}` is {length!r}, expected a number of tokens")
    return length


def _read_module(kind: str, folder: Path) -> SentenceModule:
    if kind == "Pooling":
        return SentenceModule(kind, folder, _pooling_modes(read_object(folder / "config.json"), folder))
    if kind in ("Dense", "Normalize", "LayerNorm", "Dropout"):
        return SentenceModule(kind, folder)
    raise ModelError(
        f"sentence-transformers module `{kind}` in `{folder}` is not supported, "
        "expected Pooling, Dense, LayerNorm, Dropout or Normalize",
        hint="export the transformer alone with --task feature-extraction",
    )


def _pooling_modes(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if isinstance(named, str):
        modes = tuple(named.split("+"))
    elif isinstance(named, list):
        modes = tuple(map(str, named))
    else:
        modes = tuple(mode for key, mode in POOLING_MODES.items() if config.get(key))
    unknown = [mode for mode in modes if mode not in POOLING]
    if unknown or not modes:
        raise ModelError(f"pooling mode {unknown or 'none'} in `{folder}`, expected one of {sorted(POOLING)}")
    return modes


def _column(mask: torch.Tensor) -> torch.Tensor:
    """`[batch, sequence]` to `[batch, sequence, 1]`."""
    return mask[:, :, None]


def _pool_mean(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = _column(mask)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _pool_mean_sqrt_len(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = _column(mask)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def _pool_cls(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0]


def _pool_max(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Far below any activation, so that padding never wins; arithmetic instead of a masked fill.
    return (hidden + (_column(mask) - 1.0) * 10000.0).amax(1)


def _pool_weighted_mean(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Token i weighs i, counted from 1.
    weights = _column(mask * self.ramp[:, : hidden.shape[1]])
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _pool_last_token(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Right padding: the last token is the one whose position, counted from 1, equals the number of tokens.
    distance = self.ramp[:, : hidden.shape[1]] - mask.sum(1, keepdim=True)
    return (hidden * _column((1.0 - distance.abs()).clamp(min=0.0))).sum(1)


POOLING = {
    "cls": _pool_cls,
    "max": _pool_max,
    "mean": _pool_mean,
    "mean_sqrt_len_tokens": _pool_mean_sqrt_len,
    "weightedmean": _pool_weighted_mean,
    "lasttoken": _pool_last_token,
}


def _pool_all(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    vectors = [mode(hidden, mask) for mode in self.children()]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def _normalize(self: Any, vector: torch.Tensor) -> torch.Tensor:
    import torch

    # Not F.normalize: it expands the norm to the vector's shape, where broadcasting is enough.
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=1e-12)


def _sentence_head(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    first, *rest = self.children()
    vector = first(hidden, mask)
    for part in rest:
        vector = part(vector)
    return vector


def build_sentence_head(modules: tuple[SentenceModule, ...], max_length: int) -> torch.nn.Module:
    """The modules after the transformer as one: hidden states and a float mask to `[batch, out]`."""
    parts = {}
    for index, spec in enumerate(modules):
        name = spec.kind.lower()
        parts[f"{name}_{index}" if name in parts else name] = _build(spec, max_length)
    return module(_sentence_head, **parts)


def _build(spec: SentenceModule, max_length: int) -> torch.nn.Module:
    if spec.kind == "Pooling":
        return module(_pool_all, **{mode: _build_pooling(mode, max_length) for mode in spec.modes})
    if spec.kind == "Normalize":
        return module(_normalize)
    return _load_layer_norm(spec.folder) if spec.kind == "LayerNorm" else _load_dense(spec.folder)


def _build_pooling(mode: str, max_length: int) -> torch.nn.Module:
    import torch

    if mode in ("weightedmean", "lasttoken"):
        return module(POOLING[mode], ramp=torch.arange(1, max_length + 1, dtype=torch.float32)[None])
    return module(POOLING[mode])


def _dense(self: Any, vector: torch.Tensor) -> torch.Tensor:
    return self.activation(self.linear(vector))


def _load_dense(folder: Path) -> torch.nn.Module:
    import torch

    config = read_object(folder / "config.json")
    sizes = _sizes(config, folder, "in_features", "out_features")
    linear = torch.nn.Linear(*sizes, bias=bool(config.get("bias", True)))
    _load_weights(linear, folder, prefix="linear.")
    return module(_dense, linear=linear, activation=_activation(config.get("activation_function"), folder))


def _load_layer_norm(folder: Path) -> torch.nn.Module:
    import torch

    norm = torch.nn.LayerNorm(_sizes(read_object(folder / "config.json"), folder, "dimension"))
    _load_weights(norm, folder, prefix="norm.")
    return norm


def _sizes(config: dict[str, Any], folder: Path, *names: str) -> list[int]:
    sizes = [config.get(name) for name in names]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModelError(f"config.json in `{folder}` has {', '.join(names)} {sizes}, expected sizes")
    return [int(str(size)) for size in sizes]


def _activation(name: str | None, folder: Path) -> torch.nn.Module:
    """The torch activation that a Dense module's config names, from a closed list: configs run no code."""
    import torch

    known = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
    kind = str(name or "torch.nn.Tanh").rsplit(".", 1)[-1]
    if kind not in known:
        raise ModelError(f"activation `{name}` in `{folder}` is not supported, expected one of {known}")
    activation: torch.nn.Module = getattr(torch.nn, kind)()
    return activation


def _load_weights(target: torch.nn.Module, folder: Path, prefix: str) -> None:
    from edgeq.exporters.checkpoint import read_state

    state = {name.removeprefix(prefix): tensor for name, tensor in read_state(folder).items()}
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"weights of the sentence-transformers module in `{folder}` do not fit: {error}"
        ) from error
