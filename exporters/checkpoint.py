"""Weights on disk: which files hold them, whether they can be read, and the transformers model they make."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.architecture import TextArchitecture
from edgeq.exporters.config_keys import unknown_keys
from edgeq.exporters.json_files import read_object
from edgeq.exporters.pickled import read_pickled
from edgeq.exporters.stored_names import INNER_WRAPPERS, OTHER_HEADS, check_unplaced, plain_names
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
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"no weights in `{folder}`, expected {' or '.join(WEIGHT_FILES[::2])}",
            hint="download the whole model: config.json, tokenizer.json and model.safetensors",
        )
    if found.suffix != ".json":
        return (found,)
    weight_map = read_object(found).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"`{found}` names files outside `{folder}`, expected plain file names")
    shards = sorted(set(names))
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
    from safetensors.torch import load_file

    check_weights(folder)
    state: dict[str, Any] = {}
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            state |= load_file(path)
        elif path.suffix == ".bin":
            state |= read_pickled(path)
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


def check_shapes(folder: Path, head: str) -> None:
    """Compare the shapes in safetensors headers with those that the config asks for.

    Raises:
        ModelError: they differ, or transformers cannot make a model of the config.
    """
    import transformers

    model_class = getattr(transformers, head)
    with quiet_transformers():
        try:
            named = _first_mismatch(folder, model_class)
        except Exception as error:  # transformers raises many kinds; each one is a bad config here
            raise ModelError(f"transformers cannot load `{folder}`: {describe(error)}") from error
    if named:
        raise _mismatched(folder, named)


def _mismatched(folder: Path, named: str) -> ModelError:
    return ModelError(
        f"the weights in `{folder}` do not have the shapes that config.json asks for{named}",
        hint="config.json and the weights are not of the same model: download both again",
    )


def load_encoder(
    folder: Path, architecture: TextArchitecture, task: Task, say: Callable[[str], None] = lambda _: None
) -> Any:
    """The transformers model of a folder for `task`, in float32, with plain matrix products for attention.

    Args:
        folder: of the checkpoint.
        architecture: its family.
        task: that its head computes.
        say: told what the user should know about the file.

    Raises:
        ModelError: a file cannot be read, weights are missing, of the wrong shape, or not finite, or the model would
            compute without some that are there.
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
                key_mapping=key_mapping_of(folder, say),
            )
        except Exception as error:  # transformers and torch raise many kinds; each one is a bad folder here
            raise _unloadable(folder, model_class, error) from error
    check_complete(info, folder, task)
    _check_all_used(model, info, folder, task, say)
    check_finite(model, folder)
    return model.eval()


def key_mapping_of(folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, str] | None:
    """What transformers should leave out of stored names; None where no wrapper put anything there."""
    names = plain_names(stored_names(folder), folder)
    if names.notice is None:
        return None
    say(names.notice)
    outer = [f"^{re.escape(prefix)}" for prefix in names.wrappers if prefix not in INNER_WRAPPERS]
    inner = [re.escape(part) for part in names.wrappers if part in INNER_WRAPPERS]
    return dict.fromkeys([*outer, *inner], "")


def stored_names(folder: Path) -> list[str]:
    """The names of a folder's tensors; nothing else is read of safetensors files.

    Raises:
        ModelError: a file cannot be read.
    """
    from safetensors import safe_open

    found: list[str] = []
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                found += file.keys()
        elif path.suffix == ".bin":
            found += read_pickled(path)
    return found


def _check_all_used(
    model: Any, info: dict[str, Any], folder: Path, task: Task, say: Callable[[str], None]
) -> None:
    """No tensor of the file may be left out in silence, but those of heads that the task does not have.

    Raises:
        ModelError: one belongs to a layer of the model.
    """
    unplaced = sorted(info["unexpected_keys"])
    if task in BARE_TASKS:
        unplaced = [name for name in unplaced if not name.startswith((*OTHER_HEADS, "pooler."))]
    prefix = f"{model.base_model_prefix}."
    modules = {name for name, _ in model.named_modules() if name}
    modules |= {name.removeprefix(prefix) for name in modules} | {prefix + name for name in modules}
    notice = check_unplaced(unplaced, modules, folder)
    if notice is not None:
        say(notice)


def _unloadable(folder: Path, model_class: Any, error: Exception) -> ModelError:
    if "weights_only" in str(error):
        return ModelError(
            f"the weights in `{folder}` hold more than plain tensors, which would run as code",
            hint="ask for model.safetensors, which holds nothing else",
        )
    if "ignore_mismatched_sizes" in str(error):
        # transformers names the tensors in a log only.
        return _mismatched(folder, _first_mismatch(folder, model_class))
    return ModelError(f"transformers cannot load `{folder}`: {describe(error)}")


def _first_mismatch(folder: Path, model_class: Any) -> str:
    import torch
    from safetensors import safe_open

    with torch.device("meta"):
        model = model_class(model_class.config_class.from_pretrained(folder))
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                found = file.get_slice(name).get_shape()
                wanted = [
                    expected[n] for n in (name, prefix + name, name.removeprefix(prefix)) if n in expected
                ]
                if wanted and found != wanted[0]:
                    return f": {name} has {found}, expected {wanted[0]}"
    return ""


def describe(error: Exception) -> str:
    """An exception of a library on one line: its kind, which is often all it says, and the head of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def check_complete(info: dict[str, Any], folder: Path, task: Task) -> None:
    """Refuse a model whose head transformers would fill with random numbers.

    Raises:
        ModelError: the folder has no weights for it.
    """
    missing = sorted(info["missing_keys"])
    if task in BARE_TASKS:
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        raise ModelError(
            f"`{folder}` has no weights for {len(missing)} tensors that {task} needs, first {missing[0]}",
            hint="check --task: the checkpoint may have been trained for another one",
        )


def check_finite(model: Any, folder: Path) -> None:
    """Refuse weights that are damaged.

    Raises:
        ModelError: a tensor holds NaN or Inf.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"tensor {name} of `{folder}` holds NaN or Inf in {bad} of {tensor.numel()} values",
                hint="the checkpoint is damaged; download it again or export an earlier one",
            )


def transformer_notices(model: Any, folder: Path) -> tuple[str, ...]:
    """Keys of the config that transformers does not know, and so leaves out, for people."""
    fresh = type(model.config)()
    unknown = unknown_keys(
        read_object(folder / "config.json"), {*fresh.to_dict(), *fresh.attribute_map, *dir(fresh)}
    )
    if not unknown:
        return ()
    return (f"config.json sets {', '.join(unknown)}, which transformers does not know and leaves out",)
