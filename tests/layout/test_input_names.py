"""What the inputs of text models are called is known to processors and exporters only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"toolkit": ROOT / "toolkit" / "edgeq", "targets": ROOT / "targets"}
NAMES = {"input_ids", "attention_mask", "token_type_ids"}
KNOWN_TO = ("toolkit/processors", "toolkit/exporters", "toolkit/targets", "toolkit/types.py")
"""Exporters and targets below `toolkit` are links for editors; `types` has roles, some of which are called alike."""
YET_TO_GO = {
    "toolkit/bundle/golden.py",
    "toolkit/bundle/golden_checks.py",
    "toolkit/pipeline/batch_run.py",
    "toolkit/pipeline/forward/data.py",
    "toolkit/pipeline/forward/golden_samples.py",
    "toolkit/pipeline/forward/measure.py",
    "toolkit/pipeline/forward/parity.py",
    "toolkit/pipeline/forward/ready_feeds.py",
    "toolkit/pipeline/generation/data.py",
    "toolkit/pipeline/generation/file_maker.py",
    "toolkit/pipeline/generation/file_runs.py",
    "toolkit/pipeline/generation/graph_maker.py",
    "toolkit/pipeline/generation/measure.py",
    "toolkit/pipeline/int8.py",
    "toolkit/pipeline/judges.py",
    "toolkit/tasks/tokens.py",
}
"""Files that hold such names still; the list only shrinks."""


def spells(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Constant) and node.value in NAMES for node in ast.walk(tree))


def holders() -> set[str]:
    found = set()
    for label, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            name = f"{label}/{path.relative_to(folder).as_posix()}"
            if not name.startswith(KNOWN_TO) and spells(path):
                found.add(name)
    return found


def test_only_processors_and_exporters_name_inputs() -> None:
    assert sorted(holders() - YET_TO_GO) == []


def test_the_list_has_no_file_that_needs_it_no_more() -> None:
    assert sorted(YET_TO_GO - holders()) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text('feeds.get("attention_mask")\n')
    assert spells(wrong)
    wrong.write_text('"""Takes `attention_mask`."""\nnames = ["attention_mask_2"]\n')
    assert not spells(wrong)
