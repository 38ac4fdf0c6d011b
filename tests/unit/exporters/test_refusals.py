"""Bad input: each one a clear error before long work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import ConfigError, EdgeqError, ExitCode, MissingExtraError, ModelError
from edgeq.exporters import ARCHITECTURES, check_headers, inspect_model, load_model, sample_model_path
from edgeq.exporters.causal_lm.pickled import write_as_safetensors
from edgeq.exporters.checkpoint import key_mapping_of, load_encoder, read_state
from edgeq.samples import Text
from edgeq.types import Task


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of a tiny BERT that a test may damage."""
    return Path(shutil.copytree(tiny_model("bert", Task.FEATURE_EXTRACTION), tmp_path / "model"))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(model, match: str, **options) -> EdgeqError:
    """The refusal of a model; both verbs must give it."""
    with pytest.raises(EdgeqError, match=match) as found:
        load_model(model, **options)
    assert found.value.exit_code == ExitCode.USER
    return found.value


def test_a_good_model_is_not_refused(folder):
    """The negative twin of this file."""
    facts = inspect_model(folder)
    assert facts.is_supported
    assert facts.require_supported() is facts
    assert (facts.architecture, facts.task) == ("bert", Task.FEATURE_EXTRACTION)
    assert Task.SENTENCE_EMBEDDING not in facts.tasks


def test_missing_folder(tmp_path):
    assert "there is no folder" in refused(tmp_path / "nowhere", "nowhere").message
    refused("./nowhere/at/all", "there is no folder")


def test_a_file_in_place_of_a_folder(folder):
    refused(folder / "config.json", "is a file, expected a model folder")


def test_unknown_name_without_a_network(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("no network, nothing cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    error = refused("someone/some-model", "the Hub cannot be reached")
    assert error.hint is not None
    assert "name its folder" in error.hint


def test_a_hub_model_is_taken_from_its_snapshot(monkeypatch, folder):
    import huggingface_hub

    asked = []

    def snapshot(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, "*.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    facts = inspect_model("someone/some-model", revision="v1")
    assert facts.architecture == "bert"
    # Looking at a model must not download its weights.
    assert asked == [("someone/some-model", "v1", False)]


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    refused(folder, r"has no config\.json")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"hidden_size": 3}'])
def test_a_config_that_is_not_a_transformer(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": "BertModel"}, "`architectures` .* is 'BertModel', expected a list"),
        ({"auto_map": 5}, "`auto_map` .* is 5, expected a dict"),
        ({"hidden_act": "evil"}, "cannot load .*KeyError: 'evil'"),
    ],
)
def test_a_config_with_wrong_values(folder, changes, message):
    edit_config(folder, **changes)
    refused(folder, message)


def test_weights_of_another_shape_are_named(folder):
    edit_config(folder, intermediate_size=48)
    refused(folder, r"encoder\.layer\.0\.intermediate\.dense\.bias has \[64\], expected \[48\]")


def test_unsupported_architecture_is_named_with_the_list(folder):
    edit_config(folder, model_type="roberto", architectures=["RobertoModel"])
    error = refused(folder, "architecture `roberto` is not supported")
    assert all(name in error.message for name in ARCHITECTURES)
    assert error.hint is not None
    # Another `model_type` over the same weights would only be refused later.
    assert "did you mean" not in error.hint and "model.onnx" in error.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertLMHeadModel"]},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"is_encoder_decoder": True},
        {"is_decoder": True},
    ],
)
def test_a_decoder(folder, changes):
    edit_config(folder, **changes)
    refused(folder, "generates text, expected a text encoder")


def test_code_of_its_own(folder):
    edit_config(folder, auto_map={"AutoModel": "modeling.MyModel"})
    refused(folder, "needs code of its own .*AutoModel")


def test_a_quantized_checkpoint(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    refused(folder, r"already quantized \(gptq\)")


def test_unknown_head(folder):
    edit_config(folder, architectures=["BertForMultipleChoice"])
    error = refused(folder, "BertForMultipleChoice")
    assert error.hint == "export its encoder with --task feature-extraction"
    assert inspect_model(folder, task="feature-extraction").is_supported


def test_unknown_task(folder):
    error = refused(folder, "unknown task `fill-masks`", task="fill-masks")
    assert isinstance(error, ConfigError)
    assert error.hint == "--task fill-mask"


def test_a_task_of_another_kind(folder):
    refused(folder, "cannot be exported for text-generation", task="text-generation")
    refused(folder, r"has no modules\.json", task="sentence-embedding")


def test_a_task_whose_head_was_not_trained(folder):
    refused(folder, "no weights for .* classifier.bias", task="sequence-classification")


def test_a_missing_pooler_is_no_loss_to_an_encoder(folder):
    from safetensors.numpy import load_file, save_file

    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("pooler")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load_encoder(folder, ARCHITECTURES["bert"], Task.FEATURE_EXTRACTION)


def test_a_missing_layer(folder):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"encoder\.layer\.1\.output\.dense\.weight")


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer")


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": ')
    refused(folder, "tokenizer .* cannot be loaded")


def test_a_tokenizer_that_runs_in_python_only(folder, monkeypatch):
    import transformers

    class Slow:
        is_fast = False

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    refused(folder, "runs in Python only")


def test_a_vocabulary_is_converted(folder):
    """A folder from before tokenizer.json: vocab.txt of BERT."""
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.__getitem__)))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor

    preprocessor = text_preprocessor(load_tokenizer(folder), max_length=16, input_names=["input_ids"])
    assert preprocessor.tokens(Text("an owl")) == ["[CLS]", "a", "##n", "o", "##w", "##l", "[SEP]"]


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights in")


@pytest.mark.parametrize("keep", [4, 500, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "corrupted or truncated")


def test_weights_of_another_kind(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(folder, "corrupted or truncated")


def test_a_shard_that_is_missing(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, r"lists 1 files, of which missing: model-00001\.safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "holds a list, expected a JSON object"),
        ({"weight_map": {"a": "../other/model.safetensors"}}, "names files outside"),
        ({"weight_map": {"a": 5}}, "names files outside"),
        ({"weight_map": ["a"]}, "lists 0 files"),
    ],
)
def test_an_index_that_is_malformed_or_leads_away(folder, index, message):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, message)


def test_weights_too_large_for_float32(folder):
    from safetensors.numpy import load_file, save_file

    tensors = {
        name: value * np.float32(1e25) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "the original model returns NaN or infinite values in last_hidden_state")


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["~"] = 100
    path.write_text(json.dumps(document))
    refused(
        folder,
        "has 1 tokens that the model has no embedding for, first '~' with id 100; the table has 100 rows",
    )


def test_no_room_for_text_is_found_before_the_trace(folder, monkeypatch, fresh_traces):
    monkeypatch.setattr("edgeq.exporters.loading.export_encoder", lambda *_: pytest.fail("traced"))
    refused(folder, "leaves no room for text", seq_len=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers(folder, value):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"encoder\.layer\.0\.output\.dense\.weight .* NaN or Inf in 1 of 2048")


def test_pickled_weights_are_read_as_data(folder):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    load_encoder(folder, ARCHITECTURES["bert"], Task.FEATURE_EXTRACTION)


def test_pickled_code_is_not_run(folder, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap()}))
    refused(folder, "hold more than plain tensors")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("found", [[1.0], "weights"])
def test_pickled_weights_without_names(tmp_path, found):
    """Wherever pickles are read: of a language model, of an encoder, of a module behind it."""
    import torch

    path = tmp_path / "pytorch_model.bin"
    torch.save(found, path)
    readers = (
        lambda: write_as_safetensors([path], tmp_path / "model.safetensors"),
        lambda: key_mapping_of(tmp_path),
        lambda: read_state(tmp_path),
    )
    for read in readers:
        with pytest.raises(ModelError, match=f"holds a {type(found).__name__}, expected tensors by name"):
            read()


@pytest.mark.parametrize("seq_len", [0, -3, 65, 10**9])
def test_a_sequence_beyond_the_positions(folder, seq_len):
    error = refused(folder, "the model has positions for 1 to 64 tokens", seq_len=seq_len)
    assert isinstance(error, ConfigError)


def test_roberta_has_fewer_positions_than_rows(tiny_model):
    refused(tiny_model("roberta", Task.FEATURE_EXTRACTION), "1 to 64 tokens", seq_len=65)


def test_the_sample_without_its_package(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="samples"):
        sample_model_path()


def test_exporting_without_torch(monkeypatch, folder):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(MissingExtraError, match="export"):
        load_model(folder)
    assert inspect_model(folder).is_supported


def test_a_refusal_comes_before_torch_is_imported(folder):
    """Looking at a model is cheap."""
    import subprocess
    import sys

    code = (
        "import sys; from edgeq.exporters import inspect_model; "
        f"assert inspect_model({str(folder)!r}).is_supported; "
        "assert not {'torch', 'transformers', 'onnx_ir', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refusals_are_model_errors():
    assert issubclass(ModelError, EdgeqError)
    assert ModelError("x").exit_code == ExitCode.USER


@pytest.mark.parametrize("beside", ["nothing", "config.json", "weights"])
def test_an_adapter_is_no_model(folder, beside):
    described = {"peft_type": "LORA", "base_model_name_or_path": "my-org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    if beside == "nothing":
        (folder / "config.json").unlink()
    if beside != "weights":
        (folder / "model.safetensors").unlink()
    error = refused(folder, "is a LORA adapter of my-org/base")
    assert error.hint is not None and "merge it first" in error.hint
    assert ("remove adapter_config.json" in error.hint) == (beside == "weights")


def test_code_beside_a_known_family_is_not_needed(folder):
    edit_config(
        folder,
        auto_map={"AutoConfig": "configuration_bert.BertConfig", "AutoModel": "modeling_bert.BertModel"},
    )
    (folder / "modeling_bert.py").write_text("raise SystemExit('run')")
    facts = inspect_model(folder)
    assert facts.is_supported and "`BertModel`" in facts.notices[0]
    # Another class of the same `model_type` computes something else.
    edit_config(folder, auto_map={"AutoModel": "someone/some--modeling_bert.JinaBertModel"})
    refused(folder, "needs code of its own")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 10**9},
            "`hidden_size` in config.json is 1000000000, expected a whole number from 1 to",
        ),
        ({"num_attention_heads": 0}, "`num_attention_heads` in config.json is 0"),
        ({"num_attention_heads": 5}, "cannot be divided among 5 attention heads"),
        ({"num_hidden_layers": True}, "`num_hidden_layers` in config.json is True"),
    ],
)
def test_sizes_that_no_model_has(folder, changes, message):
    edit_config(folder, **changes)
    assert message in str(inspect_model(folder).refusal)


def test_headers_are_read_before_any_work(folder):
    facts = inspect_model(folder)
    assert check_headers(facts, None) == ()
    whole = (folder / "model.safetensors").read_bytes()
    for bytes_, message in ((whole[:-1], "corrupted or truncated"), (b"\xff" * 64, "corrupted or truncated")):
        (folder / "model.safetensors").write_bytes(bytes_)
        with pytest.raises(ModelError, match=message):
            check_headers(facts, None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights in"):
        check_headers(facts, None)
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="of which missing: model-00001-of-00002"):
        check_headers(facts, None)


def test_headers_of_another_shape(folder):
    edit_config(folder, intermediate_size=48)
    with pytest.raises(ModelError, match=r"dense\.bias has \[64\], expected \[48\]"):
        check_headers(inspect_model(folder), None)


def rename(folder, change):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file(
        {change(name): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"}
    )


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_stripped(folder, prefix):
    said = []
    expected = load_encoder(folder, ARCHITECTURES["bert"], Task.FEATURE_EXTRACTION, said.append).state_dict()
    assert said == []
    rename(folder, lambda name: prefix + name)
    found = load_encoder(folder, ARCHITECTURES["bert"], Task.FEATURE_EXTRACTION, said.append).state_dict()
    assert all((found[name] == value).all() for name, value in expected.items())
    assert len(said) == 1 and "names of weights are taken without" in said[0]


def test_tensors_without_a_place_in_an_encoder(folder):
    from safetensors.numpy import load_file, save_file

    def add(**tensors):
        path = folder / "model.safetensors"
        save_file(
            load_file(path) | {n.replace("__", "."): v for n, v in tensors.items()},
            path,
            metadata={"format": "pt"},
        )

    def load():
        said = []
        load_encoder(folder, ARCHITECTURES["bert"], Task.FEATURE_EXTRACTION, said.append)
        return said

    add(cls__predictions__bias=np.ones(4, np.float32), embeddings__position_ids=np.arange(4)[None])
    assert load() == []
    add(adapter__down__weight=np.ones((4, 4), np.float32))
    assert load() == ["1 stored tensors have no place in the model and are not used: `adapter.down.weight`"]
    add(encoder__layer__0__output__dense__scale=np.ones(4, np.float32))
    refused(folder, r"no place for, first `encoder\.layer\.0\.output\.dense\.scale`")
