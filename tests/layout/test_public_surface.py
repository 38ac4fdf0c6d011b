"""What programs may rely on: docs/library.md says it, documentation and samples keep to it, and it does not vanish."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

import edgeq

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "docs" / "library.md"

# By module: names, and the names of their parameters. A change here is a change for every program that uses edgeq.
PUBLIC: dict[str, dict[str, str]] = {
    "edgeq": {
        "__version__": "",
        "export": "model target precision recipe calib calib_column calib_samples seq_len ios task revision gates "
        "output variants archive slim force sensitivity requantize seed progress",
        "load": "path variant force threads engine",
        "validate": "path against data labels on cpu force",
    },
    "edgeq.runtime.model": {
        "LoadedModel": "bundle variant",
        "LoadedModel.run": "self text feeds",
        "LoadedModel.answer": "self text",
        "LoadedModel.encode": "self texts batch_size role",
        "LoadedModel.prepare": "self text role",
        "LoadedModel.generate": "self prompt max_tokens sampling is_rendered on_text",
        "LoadedModel.chat_prompt": "self messages",
        "LoadedModel.close": "self",
    },
    "edgeq.runtime.generation.language_model": {"LanguageModel": "bundle engine variant threads"},
    "edgeq.runtime.generation.sampling": {"Sampling": "temperature top_p top_k repetition_penalty seed"},
    "edgeq.runtime.executors": {"open_executor": "name cpu target_arch cache adb"},
    "edgeq.bundle.reader": {"open_bundle": "path force verify"},
    "edgeq.calibration": {"load_samples": "spec column count seed", "split": "data held_out seed"},
    "edgeq.targets.placement": {
        "predict": "model target dims api_level coreml_format onnxruntime_release optimized"
    },
    "edgeq.errors": {"EdgeqError": "message hint"},
}

# Names that the page of one part shows to those who look into it. They may change with that part and its page.
SHOWN: dict[str, dict[str, str]] = {
    "edgeq.quantize.calibrate": {
        "batches_of": "samples preprocessor batch_size max_tokens",
        "observe": "model tensors batches gram layouts padding threads on_progress resume_from on_batch",
    },
    "edgeq.quantize.coverage": {"coverage": "samples preprocessor statistics ranges"},
    "edgeq.quantize.observers": {"ranges": ""},
    "edgeq.quantize.streaming": {"Checkpoint": "path tensors"},
    "edgeq.targets.coreml.interpreter.machine": {"MilInterpreter": "path rounding seed"},
    "edgeq.targets.coreml.lowering": {
        "lower_to_mil": "model output precision ios seq_lens weights activations fp32_nodes info"
    },
}

# Pages for those who change edgeq itself show its inside.
FOR_CONTRIBUTORS = {"adding-a-target.md", "adding-an-architecture.md"}
PAGES = [
    path
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "samples").rglob("*.md")),
        *sorted((ROOT / "samples").rglob("*.py")),
        ROOT / "toolkit/edgeq/report/snippets.py",
    )
    if path.name not in FOR_CONTRIBUTORS
]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NAMES = [
    (module, name, parameters)
    for table in (PUBLIC, SHOWN)
    for module, names in table.items()
    for name, parameters in names.items()
]


def programs(page: Path) -> list[str]:
    """The Python that a page shows, or is; of the model card's writer the lines that it writes."""
    text = page.read_text(encoding="utf-8")
    if page.name == "snippets.py":
        lines = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        return [line for line in lines if isinstance(line, str) and line.startswith(("import ", "from "))]
    return [text] if page.suffix == ".py" else BLOCK.findall(text)


def used(program: str) -> Iterator[tuple[str, str]]:
    """Names of edgeq that a program imports, and what it takes from `edgeq` itself, with their modules."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edgeq":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names if alias.name.startswith("edgeq."))
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgeq"
        ):
            yield "edgeq", node.attr


def unknown(program: str) -> list[tuple[str, str]]:
    known = {(module, name) for module, name, _ in NAMES}
    return [found for found in used(program) if found not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_and_samples_use_nothing_else(page: Path) -> None:
    assert [found for program in programs(page) for found in unknown(program)] == []


def test_what_is_not_public_is_found() -> None:
    program = (
        "import edgeq\nimport edgeq.api\nfrom edgeq.calibration import split, columns\nedgeq.api.load('x')\n"
    )
    expected = [("edgeq.api", "*"), ("edgeq.calibration", "columns"), ("edgeq", "api")]
    assert sorted(unknown(program)) == sorted(expected)


@pytest.mark.parametrize(("module", "name", "parameters"), NAMES, ids=lambda item: str(item)[:40])
def test_no_name_and_no_parameter_vanishes(module: str, name: str, parameters: str) -> None:
    found = attrgetter(name)(import_module(module))
    if isinstance(found, str | ModuleType):
        assert parameters == ""
    else:
        assert " ".join(inspect.signature(found).parameters) == parameters


def test_the_front_door_is_whole() -> None:
    assert sorted(edgeq.__all__) == sorted(PUBLIC["edgeq"])


def test_a_loaded_model_has_no_verb_that_is_not_public() -> None:
    from edgeq.runtime.model import LoadedModel

    verbs = {name for name, item in vars(LoadedModel).items() if inspect.isfunction(item) and name[0] != "_"}
    assert {f"LoadedModel.{name}" for name in verbs} == set(PUBLIC["edgeq.runtime.model"]) - {"LoadedModel"}


def test_the_page_of_the_library_names_all_of_it() -> None:
    page = LIBRARY.read_text(encoding="utf-8")
    missing = [
        f"{module}.{name}"
        for module, names in PUBLIC.items()
        for name in names
        if f"`{module}.{name}`" not in page and f"`{name.rpartition('.')[2]}`" not in page
    ]
    assert missing == []


def test_nothing_is_listed_that_no_page_shows() -> None:
    shown = {found for page in PAGES for program in programs(page) for found in used(program)}
    rest = {(module, name) for module, name, _ in NAMES if "." not in name} - shown
    assert rest <= {("edgeq", "__version__"), ("edgeq.runtime.model", "LoadedModel")}
