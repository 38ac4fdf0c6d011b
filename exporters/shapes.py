"""Sizes of models from their configs alone: parameters by module path, and what activations depend on.

Each family says its own, an encoder as a decoder. `SHAPES` has more decoders than there are exporters for: advice comes
before work.

The functions stay, though a model on torch's meta device would say the same: `edgeq advise` takes 1.3 s with them, and
importing torch and transformers and building the modules alone 5.2 s (2 cores, Qwen3 4B and BERT base).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.encoder_shapes import with_head
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.facts import read_config
from edgeq.exporters.sentence import read_sentence_model
from edgeq.exporters.source import fetch, is_gguf_file, is_onnx_file, local_folder
from edgeq.families import SHAPES
from edgeq.families.model_shape import ModelShape, SizeConfig


def read_shape(model: str, revision: str | None = None) -> tuple[ModelShape, Path]:
    """The shape of a local folder or a Hub id, of which only small files are fetched, and where its files are.

    Raises:
        ModelError: there is no such model, or its architecture is not known.
    """
    folder = model_folder(model, revision)
    return model_shape(read_config(folder), model), folder


def model_folder(model: str, revision: str | None = None) -> Path:
    """The folder with the transformer's config.json.

    Raises:
        ModelError: there is none; ONNX and GGUF files have no config.
    """
    if is_gguf_file(model):
        raise ModelError(
            f"`{model}` is a GGUF file; sizes are read from the config.json of a model folder",
            hint="name the folder or the Hub id of the checkpoint that it was made from",
        )
    if is_onnx_file(model):
        raise ModelError(
            f"`{model}` is an ONNX file, which has no config to read sizes from",
            hint="name the model folder or the Hub id that it was exported from",
        )
    folder = local_folder(model) or fetch(model, revision, config_only=True)
    sentence = read_sentence_model(folder)
    return sentence.transformer if sentence else folder


def model_shape(values: Mapping[str, Any], model: str) -> ModelShape:
    """The shape that a config describes.

    Args:
        values: keys of config.json.
        model: what the user named, for errors.

    Raises:
        ModelError: the architecture is not known, or a key that its size depends on is missing.
    """
    if values.get("model_type") == "gemma3" and isinstance(values.get("text_config"), Mapping):
        # The language model of a checkpoint that also has a vision tower.
        values = {**values["text_config"], "model_type": "gemma3_text"}
    architecture = str(values.get("model_type"))
    config = SizeConfig(values, model)
    if architecture in ARCHITECTURES:
        return with_head(ARCHITECTURES[architecture].shape(config), config)
    if architecture in SHAPES:
        return SHAPES[architecture](config)
    known = sorted([*ARCHITECTURES, *SHAPES])
    close = difflib.get_close_matches(architecture, known, n=1)
    raise ModelError(
        f"no sizes are known for architecture `{architecture}`, expected one of {', '.join(known)}",
        hint=f"did you mean {close[0]}? check model_type in config.json" if close else None,
    )
