"""The folder's own tokenizer.json is what a bundle runs, whatever transformers makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor, tokenizer_notices

TEXT = "see https://a.b/c now 2024"
RULES = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"Regex": r"https?://\S+"}, "content": "link"},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "BertPreTokenizer"}],
    },
}


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A tokenizer of a class that transformers 5 builds anew from the vocabulary."""
    made = Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))
    edit(made / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    return made


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def bundled(folder: Path, **options: bool) -> Tokenizer:
    preprocessor = text_preprocessor(
        load_tokenizer(folder, **options), max_length=48, input_names=("input_ids", "attention_mask")
    )
    return Tokenizer.from_str(preprocessor.tokenizer_json)


def test_the_files_own_rules_win(folder):
    edit(folder / "tokenizer.json", **RULES)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert bundled(folder).encode(TEXT).ids == own.encode(TEXT).ids
    [notice] = tokenizer_notices(load_tokenizer(folder))
    assert "BertTokenizer" in notice and "the bundle follows the file" in notice
    # The negative twin: transformers alone drops them.
    from transformers import AutoTokenizer

    with quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(TEXT)["input_ids"] != own.encode(TEXT).ids


def test_a_file_that_transformers_reads_alike_says_nothing(folder):
    assert tokenizer_notices(load_tokenizer(folder)) == ()


def test_tokens_that_only_the_config_adds_are_kept(folder):
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    token = dict.fromkeys(("special", "lstrip", "rstrip", "normalized", "single_word"), False)
    edit(folder / "tokenizer_config.json", added_tokens_decoder={str(size): {"content": "<new>"} | token})
    assert bundled(folder).token_to_id("<new>") == size


def test_lower_casing_comes_first(folder):
    edit(folder / "tokenizer.json", normalizer=None)
    cased, lowered = bundled(folder), bundled(folder, lower_case=True)
    assert lowered.encode("Rain").ids == cased.encode("rain").ids != cased.encode("Rain").ids
    # One that lower-cases already stays as it is.
    edit(folder / "tokenizer.json", **RULES)
    assert bundled(folder, lower_case=True).to_str() == bundled(folder).to_str()


def test_a_damaged_file(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"tokenizer"):
        load_tokenizer(folder)
