"""What the inputs of text models are called is said once, and spelled by processors and exporters only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"toolkit": ROOT / "toolkit" / "edgeq", "targets": ROOT / "targets"}
NAMES = {"input_ids", "attention_mask", "token_type_ids"}
KNOWN_TO = (
    "toolkit/processors",
    "toolkit/exporters",
    "toolkit/targets",
    "toolkit/types.py",
    "toolkit/text_inputs.py",
)
"""Exporters and targets below `toolkit` are links for editors; `types` has roles, some of which are called alike;
`text_inputs` is where the names stand."""


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
    assert sorted(holders()) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text('feeds.get("attention_mask")\n')
    assert spells(wrong)
    wrong.write_text('"""Takes `attention_mask`."""\nnames = ["attention_mask_2"]\n')
    assert not spells(wrong)
