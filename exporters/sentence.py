"""Sentence-transformers folders: the modules after the transformer, read from `modules.json`.

Those of an embedder make one vector of the token vectors; those of a cross encoder make scores of them, or there are
none where the transformer has a head of its own.

The formulas are those of sentence-transformers (Reimers and Gurevych, arXiv:1908.10084); the modules here
take a float mask `[batch, sequence]` and use sums and products only, so that every target can run them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import read_state
from edgeq.exporters.json_files import read_json, read_object
from edgeq.exporters.library_config import LibraryConfig, read_library_config
from edgeq.exporters.modules import module
from edgeq.types import Task

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


EMBEDDING, SCORES = "sentence_embedding", "scores"
"""What the library calls the vector of a text, and the numbers that a cross encoder gives for it."""
HEAD_FILE = "model_head.pkl"
"""A classifier of scikit-learn on top of the vectors, as SetFit keeps it: a pickle, which would run as code."""
ALONE = "export the transformer alone: --task feature-extraction"


@dataclass(frozen=True, slots=True)
class SentenceModule:
    """One module after the transformer: `Pooling`, `Dense`, `LayerNorm` or `Normalize`."""

    kind: str
    folder: Path
    modes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds weights of its own."""
        return self.kind in ("Dense", "LayerNorm")


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """What `modules.json` and the library's settings say.

    Attributes:
        transformer: folder of the transformer itself.
        modules: what comes after it, in order, pooling first; none where the transformer has a head of its own.
        library: what the library does besides.
        refusal: why the modules cannot be put into a graph; the transformer alone may still be exported.
    """

    transformer: Path
    modules: tuple[SentenceModule, ...]
    library: LibraryConfig
    refusal: ModelError | None = None

    @property
    def max_length(self) -> int | None:
        """`max_seq_length` of the transformer, if it is set."""
        return self.library.max_length

    @property
    def is_scorer(self) -> bool:
        """Whether it is a cross encoder."""
        return self.library.is_scorer

    @property
    def task(self) -> Task:
        """What the whole model, not its transformer alone, is for."""
        return Task.SEQUENCE_CLASSIFICATION if self.is_scorer else Task.SENTENCE_EMBEDDING

    def serves(self, task: Task | None) -> bool:
        """Whether a model for `task` is the whole model: with its modules, its prompts and its settings."""
        return task is self.task

    def head(self, task: Task | None, positions: int) -> torch.nn.Module | None:
        """The modules after the transformer as one, where a model for `task` has any."""
        if not self.serves(task) or not self.modules:
            return None
        cut = None if self.is_scorer else self.library.truncate_dim
        return build_sentence_head(self.modules, positions, cut)


def read_sentence_model(folder: Path) -> SentenceModel | None:
    """Read `modules.json` of a sentence-transformers folder; None where there is none.

    Raises:
        ModelError: a file is malformed, or there is no transformer.
    """
    if not (folder / "modules.json").is_file():
        return None
    entries = _read_entries(folder / "modules.json")
    kinds = [kind for kind, _ in entries]
    if kinds[:1] != ["Transformer"]:
        raise ModelError(
            f"modules.json in `{folder}` starts with {kinds[:2]}, expected Transformer and Pooling",
            hint="edgeq takes sentence-transformers models whose first module is a Transformer",
        )
    transformer = entries[0][1]
    library = read_library_config(folder, transformer)
    try:
        modules = tuple(_read_module(kind, place) for kind, place in entries[1:])
        modules = tuple(module for module in modules if module.kind != "Dropout")
        _check_order(folder, modules, library)
        _refuse_settings(folder, library)
    except ModelError as refusal:
        return SentenceModel(transformer, (), library, refusal)
    return SentenceModel(transformer, modules, library)


def _refuse_settings(folder: Path, library: LibraryConfig) -> None:
    if library.refusals:
        raise ModelError(
            f"`{folder}` does more than edgeq can do for sentence-transformers: {'; '.join(library.refusals)}",
            hint=ALONE,
        )


def _check_order(folder: Path, modules: tuple[SentenceModule, ...], library: LibraryConfig) -> None:
    """The modules as the library calls them: each reads what the one before wrote, and the last writes the result."""
    kinds = [module.kind for module in modules]
    if library.transformer_task == "sequence-classification" and not modules:
        return
    if kinds[:1] != ["Pooling"]:
        raise ModelError(
            f"modules.json in `{folder}` has {['Transformer', *kinds][:2]} first, expected Transformer and Pooling",
            hint=ALONE,
        )
    current = EMBEDDING
    for found in modules[1:]:
        if found.kind == "Dense":
            current = _dense_output(found, current)
        elif current != EMBEDDING or found.kind == "Pooling":
            raise ModelError(f"`{found.folder}` ({found.kind}) does not read `{current}`", hint=ALONE)
    if current != EMBEDDING and not (library.is_scorer and current == SCORES):
        raise ModelError(f"the last module of `{folder}` gives `{current}`, which nothing reads", hint=ALONE)
    if library.is_scorer and "Dense" not in kinds:
        raise ModelError(f"the cross encoder `{folder}` has no Dense module that makes scores", hint=ALONE)
    silent = any(found.config.get("include_prompt") is False for found in modules)
    if silent and library.prompts:
        raise ModelError(
            f"pooling in `{folder}` leaves the prompt's tokens out (include_prompt: false), which a graph cannot know",
            hint=ALONE,
        )


def _dense_output(found: SentenceModule, current: str) -> str:
    """What a Dense module calls its result."""
    reads = found.config.get("module_input_name") or EMBEDDING
    if reads != current:
        raise ModelError(f"`{found.folder}` reads `{reads}`, expected `{current}`", hint=ALONE)
    return str(found.config.get("module_output_name") or reads)


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


def _read_module(kind: str, folder: Path) -> SentenceModule:
    if kind == "Pooling":
        config = read_object(folder / "config.json")
        _refuse_unknown(kind, folder, config)
        return SentenceModule(kind, folder, _pooling_modes(config, folder), config)
    if kind in ("Dense", "LayerNorm"):
        config = read_object(folder / "config.json")
        _refuse_unknown(kind, folder, config)
        return SentenceModule(kind, folder, config=config)
    if kind in ("Normalize", "Dropout"):
        return SentenceModule(kind, folder)
    raise ModelError(
        f"sentence-transformers module `{kind}` in `{folder}` is not supported, "
        "expected Pooling, Dense, LayerNorm, Dropout or Normalize",
        hint=ALONE,
    )


MODULE_KEYS = {
    "Pooling": {
        "word_embedding_dimension",
        "embedding_dimension",
        "pooling_mode",
        "include_prompt",
        *POOLING_MODES,
    },
    "Dense": {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
        "module_input_name",
        "module_output_name",
        "use_residual",
    },
    "LayerNorm": {"dimension"},
}
"""Keys of a module's config that are carried out."""


def _refuse_unknown(kind: str, folder: Path, config: Mapping[str, Any]) -> None:
    """A module's own settings are few: one that nobody reads changes the result."""
    unknown = sorted(set(config) - MODULE_KEYS[kind] - {"__version__"})
    if unknown:
        raise ModelError(
            f"config.json in `{folder}` sets {', '.join(unknown)}, which edgeq does not know", hint=ALONE
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


def _truncate(self: Any, vector: torch.Tensor) -> torch.Tensor:
    return vector[:, : self.kept]


def build_sentence_head(
    modules: tuple[SentenceModule, ...], max_length: int, truncate_dim: int | None = None
) -> torch.nn.Module:
    """The modules after the transformer as one: hidden states and a float mask to `[batch, out]`.

    Args:
        modules: pooling first.
        max_length: positions of the transformer.
        truncate_dim: how many values of the vector are kept, after all modules; None for all.
    """
    parts = {}
    for index, spec in enumerate(modules):
        name = spec.kind.lower()
        parts[f"{name}_{index}" if name in parts else name] = _build(spec, max_length)
    if truncate_dim is not None:
        parts["truncate"] = module(_truncate)
        parts["truncate"].kept = truncate_dim
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


def _dense_residual(self: Any, vector: torch.Tensor) -> torch.Tensor:
    return self.activation(self.linear(vector)) + self.residual(vector)


def _load_dense(folder: Path) -> torch.nn.Module:
    import torch

    config = read_object(folder / "config.json")
    inputs, outputs = _sizes(config, folder, "in_features", "out_features")
    parts = {"linear": torch.nn.Linear(inputs, outputs, bias=bool(config.get("bias", True)))}
    if config.get("use_residual"):
        parts["residual"] = (
            torch.nn.Identity() if inputs == outputs else torch.nn.Linear(inputs, outputs, bias=False)
        )
    forward = _dense_residual if config.get("use_residual") else _dense
    dense = module(forward, **parts)
    _load_weights(dense, folder)
    dense.add_module("activation", _activation(config, folder))
    return dense


def _load_layer_norm(folder: Path) -> torch.nn.Module:
    import torch

    norm = torch.nn.LayerNorm(_sizes(read_object(folder / "config.json"), folder, "dimension"))
    _load_weights(module(lambda self, vector: self.norm(vector), norm=norm), folder)
    return norm


def _sizes(config: dict[str, Any], folder: Path, *names: str) -> list[int]:
    sizes = [config.get(name) for name in names]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModelError(f"config.json in `{folder}` has {', '.join(names)} {sizes}, expected sizes")
    return [int(str(size)) for size in sizes]


def _activation(config: Mapping[str, Any], folder: Path) -> torch.nn.Module:
    """The torch activation that a Dense module's config names, from a closed list: configs run no code."""
    import torch

    known = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
    name = config.get("activation_function", "torch.nn.Tanh")
    library, _, kind = str(name).rpartition(".")
    if kind not in known or not library.startswith("torch."):
        raise ModelError(
            f"activation `{name}` in `{folder}` is not supported, expected one of torch.nn's {', '.join(known)}"
        )
    activation: torch.nn.Module = getattr(torch.nn, kind)()
    return activation


def _load_weights(target: torch.nn.Module, folder: Path) -> None:
    try:
        target.load_state_dict(read_state(folder))
    except RuntimeError as error:
        raise ModelError(
            f"weights of the sentence-transformers module in `{folder}` do not fit: {error}"
        ) from error
