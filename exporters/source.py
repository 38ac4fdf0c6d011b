"""From what the user names (a folder, a Hub id, an ONNX file) to files on this disk."""

from __future__ import annotations

import re
from pathlib import Path

from edgeq.errors import MissingExtraError, ModelError

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")

CONFIG_PATTERNS = ("*.json", "*_*/config.json", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*")
MODEL_PATTERNS = (*CONFIG_PATTERNS, "*.safetensors", "*_*/*.safetensors", "*.txt", "*.model")
ONNX_PATTERNS = (
    "onnx/model.onnx",
    "onnx/model.onnx_data*",
    "onnx/model.onnx.data",
    "model.onnx",
    "model.onnx_data*",
)
PICKLE_PATTERNS = ("pytorch_model*.bin", "*_*/pytorch_model.bin")


def is_onnx_file(model: str | Path) -> bool:
    """Whether a name is that of an ONNX file."""
    return Path(model).suffix == ".onnx"


def is_gguf_file(model: str | Path) -> bool:
    """Whether a name is that of a GGUF file."""
    return Path(model).suffix.lower() == ".gguf"


def local_folder(model: str | Path) -> Path | None:
    """The folder that `model` names, or None when it can only be a Hub id.

    Raises:
        ModelError: it is neither a folder nor a name the Hub could know.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"`{path}` is a file, expected a model folder, an .onnx file or a Hub id",
            hint="name the folder that holds config.json",
        )
    if isinstance(model, Path) or not HUB_ID.fullmatch(model):
        raise ModelError(f"there is no folder `{path}`", hint="check the path, or name a model by its Hub id")
    return None


def ignored_revision(model: str | Path | None, revision: str | None) -> str | None:
    """A notice where a revision is asked for of what has none: only models on the Hub do."""
    if revision is None or (model is not None and not Path(model).expanduser().exists()):
        return None
    shown = "the sample model" if model is None else f"`{model}` is on this machine and"
    return f"--revision {revision} is ignored: {shown} has one version"


def fetch(model: str, revision: str | None, *, config_only: bool) -> Path:
    """Download a model from the Hub, or find it in the cache; returns its folder there.

    Raises:
        ModelError: it does not exist, is gated, or the Hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    patterns = CONFIG_PATTERNS if config_only else MODEL_PATTERNS
    folder = _snapshot(model, revision, patterns)
    if not config_only and not any(folder.glob("*.safetensors")) and not any(folder.glob("*/*.safetensors")):
        folder = _snapshot(model, revision, (*MODEL_PATTERNS, *PICKLE_PATTERNS))
        if not any(found for pattern in PICKLE_PATTERNS for found in folder.glob(pattern)):
            folder = _snapshot(model, revision, (*MODEL_PATTERNS, *ONNX_PATTERNS))
    return folder


def _snapshot(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise MissingExtraError("loading a model from the Hugging Face Hub", "export") from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(
            f"`{model}` is gated on the Hub", hint="accept its terms, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is neither a folder `{model}` nor a model of this name on the Hub",
            hint="check the spelling; for a private model, `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"`{model}` has no revision `{revision}` on the Hub") from error
    except Exception as error:  # offline shows as one of a dozen kinds, depending on where the network ends
        raise ModelError(
            f"there is no folder `{model}`, and the Hub cannot be reached to look for a model of this name "
            f"({type(error).__name__})",
            hint="download the model where there is a network (`hf download`) and name its folder",
        ) from error
