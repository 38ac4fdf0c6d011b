"""A GPTQ or AWQ folder unpacked into an ordinary model folder, and its codes kept beside it.

The folder holds the dequantized weights in float32, where a float16 scale times a small integer is exact, written a
layer at a time: the original that the bundle is compared with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.parameters import Parameter, parameters_of
from edgeq.exporters.dense_file import DenseFile
from edgeq.exporters.facts import read_config
from edgeq.exporters.packed.layers import PackedLayer, find_layers, load_layer
from edgeq.exporters.packed.settings import PackedSettings, quantization_of, read_settings
from edgeq.exporters.packed.zero_points import StepMean
from edgeq.quantize.checkpoint_codes import PackedTensor, PackedWeights
from edgeq.quantize.streaming import Checkpoint, StoredTensor

SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".index.json")


@dataclass(frozen=True, slots=True, eq=False)
class UnpackedFolder:
    """What a checkpoint came to.

    Attributes:
        folder: `config.json`, tokenizer, `model.safetensors` with dequantized weights.
        packed: its quantized layers; None where it has none.
        is_torn: layers that one fused matrix of the builder's graph reads have their inputs in different orders.
    """

    folder: Path
    packed: PackedWeights | None
    is_torn: bool


def unpack(source: Path, folder: Path) -> UnpackedFolder:
    """Write the model folder.

    Args:
        source: the checkpoint.
        folder: exists and is empty.

    Raises:
        ModelError: files are damaged, tensors are missing or do not fit the model.
        UnsupportedError: a way of packing that edgeq does not take.
        OutputError: no room for the dequantized weights.
    """
    config = read_config(source)
    described = quantization_of(source, config)
    if described is None:
        raise ModelError(f"`{source}` is not quantized, expected a GPTQ or AWQ checkpoint")
    settings = read_settings(described)
    copy_the_rest(source, folder, config)
    tensors = open_checkpoint(source).tensors
    layers = find_layers(tensors, settings)
    parameters = parameters_of(folder, source)
    plain = _plain(tensors, layers, parameters)
    plan = {name: (kind_of(tensor), tensor.shape) for name, tensor in plain.items()}
    plan |= {layer.parameter: ("F32", _expected(layer, parameters, config).shape) for layer in layers}
    packed = PackedWeights(settings.label)
    with DenseFile(folder / "model.safetensors", plan) as file:
        for name, tensor in plain.items():
            file.copy(name, tensor)
        steps = StepMean()
        for layer in layers:
            weight = load_layer(layer, settings)
            steps.add(weight)
            dense = weight.dequantize()
            # transformers keeps a linear layer's weight as [out, in], GPT-2's Conv1D as [in, out].
            file.write(layer.parameter, dense if parameters[layer.parameter].is_flipped else dense.T)
            packed.add(_tensor(layer, settings), dense.T)
    steps.check(settings)
    return UnpackedFolder(folder, packed, _is_torn(layers))


def check_layers(source: Path) -> None:
    """Look for packed layers by the headers alone.

    Raises:
        ModelError: files are damaged, or layers lack tensors.
    """
    described = quantization_of(source, read_config(source))
    if described is not None:
        find_layers(open_checkpoint(source).tensors, read_settings(described))


def open_checkpoint(source: Path) -> Checkpoint:
    """The folder's tensors; older GPTQ tools named the one file after the model.

    Raises:
        ModelError: there are none, or they are damaged.
    """
    files = sorted(source.glob("*.safetensors"))
    has_usual_name = any((source / f"model.safetensors{suffix}").is_file() for suffix in ("", ".index.json"))
    return Checkpoint.open(files[0] if len(files) == 1 and not has_usual_name else source)


def copy_the_rest(source: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """Tokenizer, generation defaults and texts, and the config of the float model."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(path, folder / path.name)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")


def _plain(
    tensors: Mapping[str, StoredTensor], layers: list[PackedLayer], parameters: Mapping[str, Parameter]
) -> dict[str, StoredTensor]:
    """Tensors that are not packed; biases of zeros that the model does not have are left out (AutoGPTQ writes them).

    Raises:
        ModelError: a packed layer has a bias that the model does not have.
    """
    consumed = {tensor.name for layer in layers for tensor in layer.tensors.values()}
    biases = {f"{layer.module}.bias" for layer in layers}
    found = {}
    for name, tensor in tensors.items():
        if name in consumed:
            continue
        if name in biases and name not in parameters:
            if any(piece.any() for piece in tensor.pieces()):
                raise ModelError(f"the checkpoint has a bias `{name}`, the model has none there")
            continue
        found[name] = tensor
    return found


def kind_of(tensor: StoredTensor) -> str:
    """The type of a tensor as safetensors names it.

    Raises:
        ModelError: it has no name there.
    """
    if tensor.dtype not in SAFETENSORS:
        raise ModelError(
            f"tensor `{tensor.name}` holds {tensor.dtype}, expected one of {', '.join(SAFETENSORS)}"
        )
    return SAFETENSORS[tensor.dtype]


def _expected(
    layer: PackedLayer, parameters: Mapping[str, Parameter], config: Mapping[str, Any]
) -> Parameter:
    """The parameter that a layer stands for.

    Raises:
        ModelError: the model has none, or one of another shape.
    """
    found = parameters.get(layer.parameter)
    if found is None:
        raise ModelError(
            f"the checkpoint has a packed layer `{layer.module}`, the model has no `{layer.parameter}`"
        )
    if found.is_tied:
        raise ModelError(
            f"the checkpoint has packed weights for `{layer.module}`, and its config ties that to the embeddings "
            "(tie_word_embeddings)",
            hint="one of the two is wrong; set tie_word_embeddings to false if the packed weights are meant",
        )
    shape = found.shape[::-1] if found.is_flipped else found.shape
    if shape != layer.shape:
        raise ModelError(
            f"packed layer `{layer.module}` is {list(layer.shape)}, expected {list(shape)} as config.json has it"
        )
    return found


def _tensor(layer: PackedLayer, settings: PackedSettings) -> PackedTensor:
    group = "" if layer.group_size == -1 else f" group {layer.group_size}"
    kind = f"{settings.method.upper()} {layer.bits}-bit{group}"
    return PackedTensor(layer.parameter, kind, lambda: load_layer(layer, settings))


def _is_torn(layers: list[PackedLayer]) -> bool:
    """Whether query, key and value of some layer have different activation orders.

    The builder's graph has one matrix for the three; one product cannot read its input in two orders.
    """
    orders: dict[str, set[bytes]] = {}
    for layer in layers:
        place, _, name = layer.module.rpartition(".")
        if name in ("q_proj", "k_proj", "v_proj"):
            orders.setdefault(place, set()).add(layer.group_order())
    return any(len(found) > 1 for found in orders.values())
