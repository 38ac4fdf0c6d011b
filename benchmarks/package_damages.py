"""Ways to break an ML program: weights by name, constants and operators of the program. Used by mutations.py."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damages import (
    Damage,
    NotApplicableError,
    heads_swapped,
    last_times,
    set_at,
    swapped,
    swapped_rows,
    times,
    word_pairs,
    zero_row,
)

from edgeq.targets.coreml.backend import coremltools
from edgeq.targets.coreml.interpreter.blob import BlobFile
from edgeq.targets.coreml.interpreter.program import DTYPES
from edgeq.targets.coreml.weights import pack_lsb_first

Edit = Callable[[np.ndarray], np.ndarray]
"""Changes an array, which is the caller's own."""

SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
RECORD = struct.Struct("<IIQQQ")
"""Header of a record of the weight file: sentinel, element type, size, where its data are, padding bits."""
IN_BYTES = {"fp16": "<f2", "int8": "i1", "uint8": "u1", "uint32": "<u4"}
"""Types whose values in the program itself are raw bytes."""
IN_FIELDS = {"fp32": ("floats", "<f4"), "int32": ("ints", "<i4"), "bool": ("bools", "?")}
"""Types whose values have a field of their own there."""
PACKED = {"int4": 4, "uint4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint6": 6}
"""Types in fewer than eight bits."""
CODES = ("quantized_data", "data", "indices", "val")
"""Operands that hold what a weight consists of."""
SCALES = ("scale", "lut", "val")
"""Operands that every value of a weight is proportional to."""
PARTS = {
    "query": "attention_self_query",
    "key": "attention_self_key",
    "value": "attention_self_value",
    "attention output": "attention_output_dense",
    "ffn up": "intermediate_dense",
    "ffn down": "output_dense",
}


class Program:
    """An ML program that is edited by the names of its values.

    Args:
        package: the `.mlpackage`.
    """

    def __init__(self, package: Path) -> None:
        coremltools()  # quietly
        from coremltools.proto import Model_pb2

        self.package = package
        self.model = Model_pb2.Model.FromString((package / SPECIFICATION).read_bytes())
        function = self.model.mlProgram.functions["main"]
        self.operations = function.block_specializations[function.opset].operations
        self.made = {output.name: item for item in self.operations for output in item.outputs}
        self.weights = bytearray((package / WEIGHTS).read_bytes())
        self.stored = BlobFile(package / WEIGHTS)

    def find(self, *endings: str) -> Any:
        """The operation that makes the first value whose name ends so."""
        for ending in endings:
            for name, item in self.made.items():
                if name.endswith(ending):
                    return item
        raise NotApplicableError(f"no value ends with {' or '.join(endings)}")

    def layer(self, weight: str) -> Any:
        """The linear layer of a weight."""
        name = self.find(weight).outputs[0].name
        return self.first(lambda item: item.type == "linear" and bound(item, "weight") == name)

    def first(self, test: Callable[[Any], bool]) -> Any:
        """The first operation of a kind."""
        for item in self.operations:
            if test(item):
                return item
        raise NotApplicableError("no such operation")

    def operand(self, item: Any, *parameters: str) -> Any:
        """The constant that is the first of some operands, wherever it is kept."""
        for parameter in parameters:
            if parameter in item.attributes:
                return item.attributes[parameter]
            if parameter in item.inputs:
                binding = item.inputs[parameter].arguments[0]
                if binding.HasField("value"):
                    return binding.value
                if self.is_constant(binding.name):
                    return self.made[binding.name].attributes["val"]
        raise NotApplicableError(f"no constant {' or '.join(parameters)} of {item.outputs[0].name}")

    def is_constant(self, name: str) -> bool:
        """Whether a value is a dense constant; inputs of the model are made by nothing."""
        return name in self.made and self.made[name].type == "const"

    def own(self, item: Any, *parameters: str) -> Any:
        """A copy of a constant operand that no other operation reads."""
        value = self.operand(item, *parameters)
        for parameter in parameters:
            binding = item.inputs[parameter].arguments[0] if parameter in item.inputs else None
            if binding is not None and (binding.HasField("value") or self.is_constant(binding.name)):
                if not binding.HasField("value"):
                    binding.value.CopyFrom(value)  # which unsets the name: they are alternatives
                return binding.value
        return value

    def change(self, value: Any, edit: Edit) -> None:
        """Replace a constant, its type and shape kept."""
        before = self.read(value)
        after = np.asarray(edit(before.copy())).astype(before.dtype).reshape(before.shape)
        if np.array_equal(after, before):
            raise NotApplicableError("it is so already")
        self.write(value, after)

    def read(self, value: Any) -> np.ndarray:
        """A constant as it is stored; codes of fewer than eight bits as 8-bit integers."""
        kind, shape = type_of(value)
        if value.WhichOneof("value") == "blobFileValue":
            count = int(np.prod(shape, dtype=np.int64))
            return self.stored.read(value.blobFileValue.offset, count).reshape(shape)
        tensor = value.immediateValue.tensor
        if kind in IN_BYTES:
            return np.frombuffer(tensor.bytes.values, IN_BYTES[kind]).reshape(shape)
        field, dtype = IN_FIELDS[kind]
        return np.array(getattr(tensor, field).values, dtype).reshape(shape)

    def write(self, value: Any, array: np.ndarray) -> None:
        """Put a constant where it was."""
        kind, _ = type_of(value)
        if value.WhichOneof("value") == "blobFileValue":
            data = packed(array, kind)
            *_, start, _ = RECORD.unpack_from(self.weights, value.blobFileValue.offset)
            self.weights[start : start + len(data)] = data
        elif kind in IN_BYTES:
            value.immediateValue.tensor.bytes.values = array.tobytes()
        else:
            getattr(value.immediateValue.tensor, IN_FIELDS[kind][0]).values[:] = array.reshape(-1).tolist()

    def save(self) -> None:
        """Write it back."""
        (self.package / SPECIFICATION).write_bytes(self.model.SerializeToString())
        (self.package / WEIGHTS).write_bytes(self.weights)


def type_of(value: Any) -> tuple[str, tuple[int, ...]]:
    """Element type by its MIL name, and shape."""
    tensor = value.type.tensorType
    return DTYPES[tensor.dataType], tuple(dim.constant.size for dim in tensor.dimensions)


def packed(array: np.ndarray, kind: str) -> bytes:
    """Values as the weight file has them."""
    if kind not in PACKED:
        return array.tobytes()
    return pack_lsb_first(array.view(np.uint8) & (2 ** PACKED[kind] - 1), PACKED[kind]).tobytes()


def bound(item: Any, parameter: str) -> str:
    """The value that an operand is, by name; empty where it is a constant given in place."""
    return str(item.inputs[parameter].arguments[0].name) if parameter in item.inputs else ""


# -- edits of a program ----------------------------------------------------------------------------------


def constant(
    ending: str | tuple[str, ...], parameters: tuple[str, ...], edit: Edit
) -> Callable[[Program], None]:
    """Of a stored value, by its name: its codes or its scales."""
    endings = (ending,) if isinstance(ending, str) else ending
    return lambda program: program.change(program.operand(program.find(*endings), *parameters), edit)


def own_operand(ending: str, parameters: tuple[str, ...], edit: Edit) -> Callable[[Program], None]:
    """Of a constant that an operation reads, for that one only."""
    return lambda program: program.change(program.own(program.find(ending), *parameters), edit)


def bias(weight: str, edit: Edit) -> Callable[[Program], None]:
    """Of the layer of a weight."""
    return lambda program: program.change(program.operand(program.layer(weight), "bias"), edit)


def one_side(weight: str, side: str, parameter: str, edit: Edit) -> Callable[[Program], None]:
    """Of how a layer's input is turned into codes, or back, but not of both."""

    def run(program: Program) -> None:
        item = program.made[bound(program.layer(weight), "x")]
        if item.type != "dequantize":
            raise NotApplicableError("the input is not quantized")
        if side == "quantize":
            item = program.made[bound(item, "input")]
        program.change(program.own(item, parameter), edit)

    return run


def equalization(weight: str, edit: Edit) -> Callable[[Program], None]:
    """Of the factors of a layer's input, whose inverse is in the weight."""

    def run(program: Program) -> None:
        item = program.made[bound(program.layer(weight), "x")]
        while item.type in ("dequantize", "quantize"):
            item = program.made[bound(item, "input")]
        if not item.outputs[0].name.endswith("_equalized"):
            raise NotApplicableError("the input is not equalized")
        program.change(program.own(item, "y"), edit)

    return run


def epsilon_edit(value: float) -> Callable[[Program], None]:
    """Of every normalization."""

    def run(program: Program) -> None:
        found = [item for item in program.operations if item.type == "layer_norm"]
        if not found:
            raise NotApplicableError("no normalization")
        for item in found:
            program.change(program.own(item, "epsilon"), lambda epsilon: epsilon * 0 + value)

    return run


def gelu_to_relu(layer: int) -> Callable[[Program], None]:
    """The activation of one feed-forward layer."""

    def run(program: Program) -> None:
        place = f"layer_{layer}_"
        item = program.first(lambda item: item.type == "gelu" and place in item.outputs[0].name)
        item.type = "relu"
        del item.inputs["mode"]

    return run


def dropped_residual(layer: int) -> Callable[[Program], None]:
    """The sum behind a feed-forward layer adds its own output again."""

    def run(program: Program) -> None:
        item = program.find(f"encoder_layer_{layer}_output_add")
        item.inputs["y"].CopyFrom(item.inputs["x"])

    return run


def exchanged(first: str, second: str, parameters: tuple[str, ...]) -> Callable[[Program], None]:
    """Two weights of one shape."""

    def run(program: Program) -> None:
        values = [program.operand(program.find(name), *parameters) for name in (first, second)]
        one, other = (program.read(value).copy() for value in values)
        if one.shape != other.shape or np.array_equal(one, other):
            raise NotApplicableError("nothing to exchange")
        program.write(values[0], other)
        program.write(values[1], one)

    return run


def layers_exchanged(first: int, second: int) -> Callable[[Program], None]:
    """Every matrix of two layers, codes and scales; biases and factors of inputs stay."""

    def run(program: Program) -> None:
        for part in PARTS.values():
            one, other = (f"encoder_layer_{layer}_{part}_weight" for layer in (first, second))
            exchanged(one, other, CODES)(program)
            if program.find(one).type != "const":
                exchanged(one, other, SCALES)(program)

    return run


# -- edits of an array -----------------------------------------------------------------------------------


def largest_sign(values: np.ndarray) -> np.ndarray:
    """The largest value with another sign: codes are inverted, which has no overflow in however many bits."""
    flat = values.reshape(-1)
    place = np.argmax(np.abs(flat.astype(np.float64)))
    flat[place] = ~flat[place] if np.issubdtype(flat.dtype, np.integer) else -flat[place]
    return values


def largest_lowest_bit(values: np.ndarray) -> np.ndarray:
    """The lowest bit of the largest value flipped."""
    flat = values.reshape(-1)
    place = np.argmax(np.abs(flat.astype(np.float64)))
    flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[flat.itemsize])[place] ^= 1
    return values


def row_negated(values: np.ndarray) -> np.ndarray:
    """The first row, as far as codes go."""
    values[0] = -np.clip(values[0], -127, 127)
    return values


def first_for_all(values: np.ndarray) -> np.ndarray:
    """One scale for all rows, as of a layer that is quantized as a whole."""
    return np.broadcast_to(values.reshape(len(values), -1)[:1], values.reshape(len(values), -1).shape)


# -- all of them -----------------------------------------------------------------------------------------


class Names:
    """What damages of one variant are placed by.

    Args:
        variant: its id.
        program: undamaged.
    """

    def __init__(self, variant: str, program: Program) -> None:
        self.variant, self.program = variant, program
        found = re.findall(r"encoder_layer_(\d+)_", " ".join(program.made))
        if not found:
            raise SystemExit(f"{variant} has no layers named as BERT's")
        self.last = max(int(number) for number in found)

    def layer(self, wanted: int) -> int:
        """One of that number, or the last."""
        return min(wanted, self.last)

    @staticmethod
    def weight(layer: int, part: str) -> str:
        """Of a part of a layer."""
        return f"encoder_layer_{layer}_{PARTS[part]}_weight"

    def damage(self, name: str, edit: Callable[[Program], None], reaches: tuple[int, ...] = ()) -> Damage:
        """Of a copy of the bundle."""

        def run(folder: Path) -> None:
            program = Program(folder / "model" / self.variant / "Model.mlpackage")
            edit(program)
            program.save()

        return Damage(f"{self.variant}: {name}", run, reaches)


def package_damages(variant: str, package: Path) -> Iterator[Damage]:
    """Damages of an encoder's ML program in the names of BERT's modules."""
    names = Names(variant, Program(package))
    yield from scale_damages(names)
    yield from weight_damages(names)
    yield from input_damages(names)
    yield from norm_damages(names)
    yield from operator_damages(names)
    yield from table_damages(names)
    yield from head_damages(names)


def scale_damages(names: Names) -> Iterator[Damage]:
    """Of whole weights, of which the codes stay."""
    for part in PARTS:
        for layer in sorted({0, names.last // 2, names.last}):
            for factor in (1.5, 1.1):
                edit = constant(names.weight(layer, part), SCALES, times(factor))
                yield names.damage(f"scale of {part} {layer} x{factor}", edit)
    edit = constant(names.weight(0, "ffn down"), ("scale", "lut"), first_for_all)
    yield names.damage("one scale for all rows of ffn down 0", edit)


def weight_damages(names: Names) -> Iterator[Damage]:
    """Of codes of weights, and of biases."""
    second, third, last = names.layer(1), names.layer(2), names.last
    for part in PARTS:
        weight = names.weight(second, part)
        yield names.damage(f"bias of {part} {second} zeroed", bias(weight, times(0)))
        for axis, what in enumerate(("rows", "columns")):
            edit = constant(weight, CODES, swapped(3, 50, axis))
            yield names.damage(f"two {what} of {part} {second} swapped", edit)
        edit = constant(names.weight(last, part), CODES, lambda codes: codes[::-1])
        yield names.damage(f"{part} {last} all rows reversed", edit)
        for change, what in ((largest_sign, "sign"), (largest_lowest_bit, "lowest bit")):
            edit = constant(names.weight(third, part), CODES, change)
            yield names.damage(f"{what} of the largest weight of {part} {third}", edit)
    size = head_size(names.program)
    for part, layer in (("query", 0), ("value", 0), ("key", names.layer(3))):
        edit = constant(names.weight(layer, part), CODES, heads_swapped(size, 0))
        yield names.damage(f"two heads of {part} {layer} swapped", edit)
    pair = names.weight(0, "ffn up"), names.weight(third, "ffn up")
    yield names.damage(f"layers 0 and {third} exchange ffn up", exchanged(*pair, CODES))
    yield names.damage(f"layers 0 and {last} exchange all matrices", layers_exchanged(0, last))


def input_damages(names: Names) -> Iterator[Damage]:
    """Of how inputs of layers are quantized and equalized."""
    third = names.layer(2)
    for layer in (0, names.last):
        for shift in (1, 8):
            edit = one_side(names.weight(layer, "ffn down"), "quantize", "zero_point", plus(shift))
            yield names.damage(f"zero point of one side of ffn down {layer} +{shift}", edit)
    for factor in (1.1, 1.5):
        for side in ("quantize", "dequantize"):
            edit = one_side(names.weight(third, "ffn up"), side, "scale", times(factor))
            yield names.damage(f"input scale of ffn up {third} x{factor} where it is {side}d", edit)
    for part in ("query", "ffn down"):
        weight = names.weight(third, part)
        yield names.damage(
            f"equalization in front of {part} {third} reversed",
            equalization(weight, lambda scale: scale[::-1]),
        )
        yield names.damage(f"equalization in front of {part} {third} x1.1", equalization(weight, times(1.1)))


def plus(shift: int) -> Edit:
    """Codes moved, as far as they go."""
    return lambda codes: np.minimum(codes.astype(np.int64) + shift, np.iinfo(codes.dtype).max)


def norm_damages(names: Names) -> Iterator[Damage]:
    """Of normalizations."""
    for text, epsilon in (("1e-5", 1e-5), ("1e-2", 1e-2), ("1", 1.0)):
        yield names.damage(f"epsilon of every normalization {text}", epsilon_edit(epsilon))
    third = f"encoder_layer_{names.layer(2)}_output_LayerNorm"
    yield names.damage(
        "one gain of a normalization zeroed", constant(f"{third}_weight", CODES, set_at(7, 0.0))
    )
    yield names.damage("gains of a normalization x1.1", constant(f"{third}_weight", CODES, times(1.1)))
    yield names.damage(
        "gains of a normalization reversed", constant(f"{third}_weight", CODES, lambda g: g[::-1])
    )
    yield names.damage("shift of a normalization zeroed", constant(f"{third}_bias", CODES, times(0)))
    last = f"encoder_layer_{names.last}_output_LayerNorm_weight"
    yield names.damage("NaN in a normalization", constant(last, CODES, set_at(0, math.nan)))


def operator_damages(names: Names) -> Iterator[Damage]:
    """Of constants in the program itself, and of operators."""
    attention = f"encoder_layer_{names.layer(1)}_attention_self"
    for factor in (1.1, 2.0, 0.0):
        edit = own_operand(f"{attention}_mul", ("y", "x"), times(factor))
        yield names.damage(f"attention scale x{factor}", edit)
    for value in (0.0, -1.0, -8.0):
        bias_edit = own_operand("attention_bias_mul", ("y", "x"), lambda m, value=value: m * 0 + value)
        yield names.damage(f"mask bias {value}", bias_edit)
    other_axis = own_operand(f"{attention}_softmax", ("axis",), lambda axis: axis * 0 + 2)
    yield names.damage("softmax over queries", other_axis)
    yield names.damage("GELU becomes ReLU", gelu_to_relu(names.layer(2)))
    yield names.damage("one residual dropped", dropped_residual(names.layer(1)))


def table_damages(names: Names) -> Iterator[Damage]:
    """Of words, positions and token types."""
    positions = ("position_embeddings", "position_embeddings_longest", "position_embeddings_weight")
    yield names.damage("positions 5 and 6 swapped", constant(positions, CODES, swapped_rows(5, 6)))
    yield names.damage("positions 100 and 101 swapped", constant(positions, CODES, swapped_rows(100, 101)))
    yield names.damage("positions reversed", constant(positions, CODES, lambda rows: rows[..., ::-1, :]))
    yield names.damage("position 120 zeroed", constant(positions, CODES, zero_row(120)))
    types = "token_type_embeddings_weight"
    yield names.damage("token types swapped", constant(types, CODES, swapped(0, 1, 0)))
    yield names.damage("second token type zeroed", constant(types, CODES, set_at(1, 0.0)))
    table = "word_embeddings_weight"
    rows = len(names.program.read(names.program.operand(names.program.find(table), *CODES)))
    common, rare = word_pairs(rows)
    end = (rows - 1,)
    yield names.damage("last word zeroed", constant(table, CODES, set_at(-1, 0.0)), end)
    yield names.damage("row scale of the last word x3", constant(table, ("scale",), last_times(3.0)), end)
    yield names.damage("NaN in the last word", constant(table, ("scale",), set_at(-1, math.nan)), end)
    yield names.damage("words shifted by one", constant(table, CODES, lambda t: np.roll(t, 1, axis=0)))
    yield names.damage("two common words swapped", constant(table, CODES, swapped(*common, 0)), common)
    yield names.damage("two rare words swapped", constant(table, CODES, swapped(*rare, 0)), rare)
    yield names.damage("columns of the word table reversed", constant(table, CODES, lambda t: t[:, ::-1]))


def head_damages(names: Names) -> Iterator[Damage]:
    """Of a classifier and its pooler, where there are any."""
    weight = "classifier_weight"
    for factor in (1.5, 1.1):
        yield names.damage(f"scale of the classifier x{factor}", constant(weight, SCALES, times(factor)))
    yield names.damage("two labels of the classifier swapped", constant(weight, CODES, swapped(0, 1, 0)))
    yield names.damage("one label of the classifier negated", constant(weight, CODES, row_negated))
    yield names.damage("bias of the classifier zeroed", bias(weight, times(0)))
    yield names.damage("bias of the pooler zeroed", bias("pooler_dense_weight", times(0)))


def head_size(program: Program) -> int:
    """From the factor of the attention scores, `1 / sqrt(head size)`."""
    value = program.operand(program.find("encoder_layer_1_attention_self_mul"), "y", "x")
    return round(float(program.read(value).reshape(-1)[0]) ** -2)
