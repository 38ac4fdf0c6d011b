"""Many texts into a file; tests/unit/cli/test_bundle_commands.py has the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.pipeline.batch_run import run_texts
from edgeq.processors.bounded_tokenizer import BoundedTokenizer
from edgeq.runtime.runtime import load


def test_texts_that_are_cut_are_counted_and_not_tokenized_whole(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = BoundedTokenizer.encode

    def counted(self: Any, samples: Any, **options: Any) -> Any:
        seen.extend(sum(map(len, texts)) for texts in samples)
        return encode(self, samples, **options)

    monkeypatch.setattr(BoundedTokenizer, "encode", counted)
    source, output = tmp_path / "texts.txt", tmp_path / "rows.jsonl"
    # The bundle takes 16 tokens, [CLS] and [SEP] among them.
    words = (14, 15, 3, 1_000_000)
    source.write_text("\n".join("the " * count for count in words) + "\n")
    with load(tiny_bundle) as runtime:
        summary = run_texts(runtime, source, output)
    assert (summary.texts, summary.cut) == (4, 2)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [len(row["last_hidden_state"]) for row in rows] == [16, 16, 5, 16]
    assert max(seen) < 20_000
