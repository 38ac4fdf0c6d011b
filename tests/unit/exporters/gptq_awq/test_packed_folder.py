"""A packed checkpoint as a float folder: the same numbers, and every file that does not add up refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.gptq_awq.folder import unpack

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def pristine(tiny_decoder, packed_checkpoints, tmp_path_factory):
    """A GPTQ checkpoint, and the weights that it stands for."""
    folder = tmp_path_factory.mktemp("gptq") / "model"
    weights = packed_checkpoints.build_packed_checkpoint(
        tiny_decoder("llama"), folder, lambda _, weight: packed_checkpoints.gptq(weight), GPTQ
    )
    return folder, weights


@pytest.fixture
def checkpoint(pristine, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(pristine[0], tmp_path / "model"))


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


def edit(folder, **tensors):
    """Replace tensors of a checkpoint; None removes one."""
    path = folder / "model.safetensors"
    found = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({k: v for k, v in found.items() if v is not None}, path, metadata={"format": "pt"})


def test_the_folder_is_the_float_model(pristine, unpacked):
    folder, weights = pristine
    found = unpack(folder, unpacked)
    written, source = load_file(unpacked / "model.safetensors"), load_file(folder / "model.safetensors")
    assert len(weights) == 14 == len(found.packed.tensors)
    for name, weight in weights.items():
        np.testing.assert_array_equal(written.pop(name), weight)
    for name, tensor in written.items():
        assert tensor.dtype == source[name].dtype
        np.testing.assert_array_equal(tensor, source[name])
    assert "quantization_config" not in json.loads((unpacked / "config.json").read_text())
    assert (unpacked / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert found.packed.tensors[0].kind == "GPTQ 4-bit group 32"


def test_rows_are_found_again_in_another_order(pristine, unpacked):
    folder, weights = pristine
    packed = unpack(folder, unpacked).packed
    assert len(packed.unread()) == 14
    parts = [weights[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    fused = np.concatenate(parts)[::-1]
    found = packed.find(np.ascontiguousarray(fused.T))
    np.testing.assert_array_equal(found.dequantize().T, fused)
    assert len(packed.unread()) == 11
    other = fused.copy()
    other[3, 5] *= 1.0000001
    assert packed.find(np.ascontiguousarray(other.T)) is None


def test_one_file_under_another_name(checkpoint, unpacked, pristine):
    (checkpoint / "model.safetensors").rename(checkpoint / "gptq_model-4bit-32g.safetensors")
    unpack(checkpoint, unpacked)
    np.testing.assert_array_equal(
        load_file(unpacked / "model.safetensors")[f"{Q_PROJ}.weight"], pristine[1][f"{Q_PROJ}.weight"]
    )


def test_shards(checkpoint, unpacked, pristine):
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == shard}, checkpoint / shard)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    unpack(checkpoint, unpacked)
    written = load_file(unpacked / "model.safetensors")
    for name, weight in pristine[1].items():
        np.testing.assert_array_equal(written[name], weight)


def test_layers_may_differ_in_bits_and_groups(tiny_decoder, packed_checkpoints, tmp_path, unpacked):
    """`dynamic` of GPTQModel: shapes tell."""

    def pack(module, weight):
        bits, group_size = (8, 16) if "down_proj" in module else (4, -1) if "o_proj" in module else (4, 32)
        return packed_checkpoints.gptq(weight, bits, group_size)

    weights = packed_checkpoints.build_packed_checkpoint(
        tiny_decoder("llama"), tmp_path / "model", pack, GPTQ
    )
    found = unpack(tmp_path / "model", unpacked)
    written = load_file(unpacked / "model.safetensors")
    for name, weight in weights.items():
        np.testing.assert_array_equal(written[name], weight)
    kinds = {tensor.kind for tensor in found.packed.tensors}
    assert kinds == {"GPTQ 4-bit group 32", "GPTQ 4-bit", "GPTQ 8-bit group 16"}


def test_a_layer_that_keeps_its_weight_the_other_way_round(
    tiny_decoder, packed_checkpoints, tmp_path, unpacked
):
    """GPT-2's layers are `[in, out]`; GPTQ packs them like any other."""
    weights = packed_checkpoints.build_packed_checkpoint(
        tiny_decoder("gpt2"),
        tmp_path / "model",
        lambda _, weight: packed_checkpoints.gptq(np.ascontiguousarray(weight.T)),
        GPTQ,
        "h.",
    )
    unpack(tmp_path / "model", unpacked)
    written = load_file(unpacked / "model.safetensors")
    assert len(weights) == 8
    for name, weight in weights.items():
        np.testing.assert_array_equal(written[name], weight.T)


def test_biases_of_zeros_that_the_model_does_not_have(checkpoint, unpacked):
    bias = np.zeros(64, np.float16)
    edit(checkpoint, **{f"{Q_PROJ}.bias": bias})
    unpack(checkpoint, unpacked)
    assert f"{Q_PROJ}.bias" not in load_file(unpacked / "model.safetensors")
    bias[5] = 1
    edit(checkpoint, **{f"{Q_PROJ}.bias": bias})
    with pytest.raises(ModelError, match=f"has a bias `{Q_PROJ}.bias`, the model has none there"):
        unpack(checkpoint, unpacked)


def test_symmetric_that_is_not(checkpoint, unpacked):
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"]["sym"] = True
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the config says symmetric, so that all are 8") as caught:
        unpack(checkpoint, unpacked)
    assert "checkpoint_format" in caught.value.hint


def test_tied_and_packed_at_once(tiny_decoder, packed_checkpoints, tmp_path, unpacked):
    folder = tmp_path / "model"
    source = tiny_decoder("llama")
    packed_checkpoints.build_packed_checkpoint(
        source, folder, lambda _, weight: packed_checkpoints.gptq(weight), GPTQ
    )
    head = packed_checkpoints.gptq(load_file(source / "model.safetensors")["lm_head.weight"])
    edit(
        folder,
        **{"lm_head.weight": None},
        **{f"lm_head.{part}": value for part, value in head.tensors.items()},
    )
    unpack(folder, unpacked)
    np.testing.assert_array_equal(load_file(unpacked / "model.safetensors")["lm_head.weight"], head.weight)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(ModelError, match="packed weights for `lm_head`, and its config ties that"):
        unpack(folder, unpacked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{Q_PROJ}.qzeros": None}, f"packed layer `{Q_PROJ}` has no qzeros"),
        ({f"{Q_PROJ}.qweight": None}, rf"tensor `{Q_PROJ}\.\w+` belongs to no packed layer"),
        (
            {"model.layers.0.mlp.act.scales": np.ones(96, np.float16)},
            "`model.layers.0.mlp.act.scales` belongs to no",
        ),
        ({f"{Q_PROJ}.qweight": np.zeros(8, np.int32)}, rf"`{Q_PROJ}.qweight` has shape \[8\]"),
        ({f"{Q_PROJ}.qweight": np.zeros((8, 64), np.int64)}, "qweight is int64; expected int32"),
        (
            {f"{Q_PROJ}.scales": np.full((2, 64), np.inf, np.float16)},
            f"`{Q_PROJ}`: 128 of 128 scales are NaN",
        ),
        ({f"{Q_PROJ}.g_idx": np.full(64, 7, np.int32)}, "naming groups 7 to 7"),
        ({f"{Q_PROJ}.qzeros": np.zeros((2, 4), np.int32)}, r"qzeros of shape \[2, 4\]; expected \[2, 8\]"),
    ],
)
def test_tensors_that_do_not_add_up(checkpoint, unpacked, changes, message):
    edit(checkpoint, **changes)
    with pytest.raises(ModelError, match=message):
        unpack(checkpoint, unpacked)


def test_an_order_that_awq_does_not_have(tiny_decoder, packed_checkpoints, tmp_path, unpacked):
    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    folder = tmp_path / "model"
    packed_checkpoints.build_packed_checkpoint(
        tiny_decoder("llama"), folder, lambda _, weight: packed_checkpoints.awq(weight), settings
    )
    edit(folder, **{f"{Q_PROJ}.g_idx": np.zeros(64, np.int32)})
    with pytest.raises(ModelError, match=f"packed layer `{Q_PROJ}` is AWQ and has g_idx"):
        unpack(folder, unpacked)


def test_uneven_groups_name_the_layer(checkpoint, unpacked):
    uneven = np.repeat(np.arange(2, dtype=np.int32), 32)
    uneven[0] = 1
    edit(checkpoint, **{f"{Q_PROJ}.g_idx": uneven})
    with pytest.raises(UnsupportedError, match=f"packed layer `{Q_PROJ}`: g_idx puts 31 to 33 inputs"):
        unpack(checkpoint, unpacked)


def test_layers_of_another_model(checkpoint, unpacked):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(
        ModelError, match=r"`model.layers.0.mlp.\w+` is \[96, 64\], expected \[128, 64\]|\[64, 96\]"
    ):
        unpack(checkpoint, unpacked)
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match=r"packed layer `model\.layers\.1"):
        unpack(checkpoint, unpacked)


def test_a_float_checkpoint_that_says_it_is_packed(checkpoint, unpacked, tiny_decoder):
    shutil.copy(tiny_decoder("llama") / "model.safetensors", checkpoint)
    with pytest.raises(ModelError, match="the config says gptq, and no tensor of the checkpoint is packed"):
        unpack(checkpoint, unpacked)


def test_a_truncated_file(checkpoint, unpacked):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="it is truncated"):
        unpack(checkpoint, unpacked)
