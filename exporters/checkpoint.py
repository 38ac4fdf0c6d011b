"""Weights on disk: which files hold them, whether they can be read, and the transformers model they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.architecture import TextArchitecture
from edgeq.types import Task

if TYPE_CHECKING:
    import torch

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order they are preferred."""

BARE_TASKS = (Task.FEATURE_EXTRACTION, Task.SENTENCE_EMBEDDING)
"""Tasks that read the last hidden state: the pooler that some encoder classes have may be missing."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files holding a folder's weights, with the index of a sharded checkpoint first.

    Raises:
        ModelError: there are none, or the index names files that are not there.
    """
    from edgeq.exporters.sentence import read_json

    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"no weights in `{folder}`, expected {' or '.join(WEIGHT_FILES[::2])}",
            hint="download the whole model: config.json, tokenizer.json and model.safetensors",
        )
    if found.suffix != ".json":
        return (found,)
    shards = sorted(set(read_json(found).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing or not shards:
        raise ModelError(
            f"`{found}` lists {len(shards)} files, of which missing: {', '.join(missing) or 'all'}"
        )
    return (found, *(folder / name for name in shards))


def check_weights(folder: Path) -> None:
    """Read the header of every safetensors file: finds corrupted ones before anything is loaded.

    Raises:
        ModelError: a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="np") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"`{path}` is corrupted or truncated: {error}", hint="download the model's weights again"
            ) from error


def read_state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's weights, by name.

    Raises:
        ModelError: a file cannot be read.
    """
    import torch
    from safetensors.torch import load_file

    check_weights(folder)
    state: dict[str, Any] = {}
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            state |= load_file(path)
        elif path.suffix == ".bin":
            try:
                state |= torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # pickle fails in many ways, all of them a bad file
                raise ModelError(f"`{path}` cannot be loaded as plain weights: {error}") from error
    return state


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and notices off the terminal, which belongs to edgeq."""
    import warnings

    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_encoder(folder: Path, architecture: TextArchitecture, task: Task) -> Any:
    """The transformers model of a folder for `task`, in float32, with plain matrix products for attention.

    Raises:
        ModelError: a file cannot be read, weights are missing, of the wrong shape, or not finite.
    """
    import torch
    import transformers

    check_weights(folder)
    model_class = getattr(transformers, architecture.head(task))
    with quiet_transformers():
        try:
            model, info = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
                weights_only=True,
            )
        except Exception as error:  # transformers and torch raise many kinds; each one is a bad folder here
            raise ModelError(f"transformers cannot load `{folder}`: {error}") from error
    _check_complete(info, folder, task)
    _check_finite(model, folder)
    return model.eval()


def _check_complete(info: dict[str, Any], folder: Path, task: Task) -> None:
    missing = sorted(info["missing_keys"])
    if task in BARE_TASKS:
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        raise ModelError(
            f"`{folder}` has no weights for {len(missing)} tensors that {task} needs, first {missing[0]}",
            hint="check --task: the checkpoint may have been trained for another one",
        )


def _check_finite(model: Any, folder: Path) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"tensor {name} of `{folder}` holds NaN or Inf in {bad} of {tensor.numel()} values",
                hint="the checkpoint is damaged; download it again or export an earlier one",
            )
