"""Checks of a manifest: against the published JSON Schema, then that its parts agree with each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgeq.bundle.older import foreign_keys
from edgeq.errors import IntegrityError
from edgeq.files import MAX_PATH_CHARACTERS
from edgeq.types import COMPONENT

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

SCHEMA_FILE = "schema/edgeq-{major}.0.schema.json"
"""One for all minor versions."""
CURRENT = "2"
STEP_OUTPUTS = {"answer_span": 2}
"""How many outputs a postprocessing step reads; the others read one."""
_MOST_SHOWN = 5
_MOST_LOOKED_FOR = 50
_SHOWN = 60


@cache
def load_schema(major: str = CURRENT) -> dict[str, Any]:
    """The published JSON Schema of `edgeq.json`, of one major version."""
    file = files("edgeq.bundle").joinpath(SCHEMA_FILE.format(major=major))
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


@cache
def _validator(major: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(load_schema(major))


def check_schema(document: Any, major: str) -> None:
    """Raise IntegrityError naming each place that is wrong, what is there and what the schema expects."""
    # Some of them: each of a million takes a kilobyte, and is looked for once more.
    found = list(islice(_validator(major).iter_errors(document), _MOST_LOOKED_FOR))
    _refuse([_describe(error) for error in sorted(found, key=lambda error: error.json_path)], major)
    _refuse(list(islice(foreign_keys(document, major), _MOST_LOOKED_FOR)), major)


def check_consistency(document: dict[str, Any], major: str) -> None:
    """Raise IntegrityError when a document's parts do not agree (a gate of a variant that is not there).

    Args:
        document: with the keys of format 2.
        major: what it was written in.
    """
    checks = (
        _repeated,
        _components,
        _dangling_variants,
        _dangling_outputs,
        _steps,
        _prompts,
        _missing_files,
    )
    problems = (problem for check in checks for problem in check(document))
    _refuse(list(islice(problems, _MOST_LOOKED_FOR)), major)


def _refuse(problems: list[str], major: str) -> None:
    if not problems:
        return
    shown = problems[:_MOST_SHOWN]
    least = " at least" if len(problems) == _MOST_LOOKED_FOR else ""
    more = f"; and{least} {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
    raise IntegrityError(f"`edgeq.json` does not follow format {major}: {'; '.join(shown)}{more}")


def _describe(error: ValidationError) -> str:
    where = error.json_path.removeprefix("$").removeprefix(".") or "the document"
    return f"at {where[:_SHOWN]}: got {_shown(error.instance)}, expected {_expected(error)}"


def _shown(instance: Any) -> str:
    """The beginning of it; of a million values only as many are written."""
    shown = ""
    for piece in json.JSONEncoder().iterencode(instance):
        shown += piece
        if len(shown) > _SHOWN:
            return shown[: _SHOWN - 3] + "..."
    return shown


def _expected(error: ValidationError) -> str:
    value: Any = error.validator_value
    match error.validator:
        case "type":
            return f"type {value if isinstance(value, str) else ' or '.join(value)}"
        case "enum":
            return f"one of {', '.join(map(str, value))}"
        case "const":
            return json.dumps(value)
        case "required":
            return "the keys " + ", ".join(value)
        case "pattern":
            return f"text like {value}"
        case "minimum" | "exclusiveMinimum":
            return f"a number from {value} up"
        case _:
            return f"{error.validator} {json.dumps(value)[:60]}"


def _repeated(document: dict[str, Any]) -> Iterator[str]:
    yield from _duplicates("variant id", (variant["id"] for variant in document["variants"]))
    yield from _duplicates("golden case", (case["id"] for case in document.get("golden", [])))
    # Case is ignored: the bundle must mean the same on a Mac.
    paths = (entry["path"].casefold() for entry in document["integrity"]["files"])
    yield from _duplicates("file", paths)


def _duplicates(what: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"the {what} `{value}` is there {count} times"


def _components(document: dict[str, Any]) -> Iterator[str]:
    """Graphs that are no parts of one variant, and tensors that do not say whose they are."""
    for variant in document["variants"]:
        where, models = f"variants `{variant['id']}`", variant["models"]
        for problem in _duplicates("path", (path.casefold() for path in models.values())):
            yield f"at {where}: {problem}"
        if len({path.rpartition("/")[0] for path in models.values()}) > 1:
            yield f"at {where}: its components lie in several folders, expected one"
        if len(models) > 1:
            yield from _unowned(where, variant)
        elif COMPONENT not in models:
            yield f"at {where}: its only component is `{next(iter(models))[:_SHOWN]}`, expected `{COMPONENT}`"


def _unowned(where: str, variant: dict[str, Any]) -> Iterator[str]:
    for spec in variant["inputs"] + variant["outputs"]:
        component, _, name = spec["name"].partition("/")
        if component not in variant["models"] or not name:
            yield f"at {where}: the tensor `{spec['name']}` is of none of its components, expected `COMPONENT/NAME`"


def _dangling_variants(document: dict[str, Any]) -> Iterator[str]:
    known = {variant["id"] for variant in document["variants"]}
    for key in ("gates", "metrics"):
        for index, item in enumerate(document.get(key, [])):
            if item["variant"] not in known:
                yield f"at {key}[{index}]: the variant `{item['variant']}` is not in the bundle"
    for case in document.get("golden", []):
        for item in case.get("tolerances", []):
            if item["variant"] not in known:
                yield f"at golden `{case['id']}`: the variant `{item['variant']}` is not in the bundle"


def _dangling_outputs(document: dict[str, Any]) -> Iterator[str]:
    """Gates and tolerances of outputs that their variant does not have."""
    known = {variant["id"]: _output_names(variant) for variant in document["variants"]}
    bounds = [(f"gates[{index}]", gate) for index, gate in enumerate(document.get("gates", []))]
    for case in document.get("golden", []):
        bounds += [(f"golden `{case['id']}`", bound) for bound in case.get("tolerances", [])]
    for where, bound in bounds:
        if bound["variant"] in known and bound["output"] not in known[bound["variant"]]:
            yield f"at {where}: the variant `{bound['variant']}` has no output `{bound['output']}`"


def _steps(document: dict[str, Any]) -> Iterator[str]:
    """Postprocessing steps that read what is not there, or not as many outputs as they need."""
    known = {name for variant in document["variants"] for name in _output_names(variant)}
    for step in document.get("postprocess", []):
        needed = STEP_OUTPUTS.get(step["step"], 1)
        if len(step["outputs"]) != needed:
            yield f"at postprocess `{step['step']}`: it reads {len(step['outputs'])} outputs, expected {needed}"
        for name in step["outputs"]:
            if name not in known:
                yield f"at postprocess `{step['step']}`: no variant has an output `{name}`"


def _prompts(document: dict[str, Any]) -> Iterator[str]:
    """A default prompt that is not there."""
    text = _text_processor(document)
    default = text.get("default_prompt")
    if default is not None and default not in text.get("prompts", {}):
        yield f"at default_prompt: there is no prompt `{default}`"


def _text_processor(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document.get("processor", {}).get("text", {})
    return found


def _output_names(variant: dict[str, Any]) -> set[str]:
    return {spec["name"] for spec in variant["outputs"]}


def _missing_files(document: dict[str, Any]) -> Iterator[str]:
    present = {path for entry in document["integrity"]["files"] for path in _path_and_folders(entry["path"])}
    named = [
        (f"variants `{variant['id']}`", path)
        for variant in document["variants"]
        for path in variant["models"].values()
    ]
    named += [(f"golden `{case['id']}`", case["path"]) for case in document.get("golden", [])]
    if text := _text_processor(document):
        named.append(("the tokenizer", text["path"]))
    if "language_golden" in document:
        named.append(("language_golden", document["language_golden"]))
    for where, path in named:
        if path not in present:
            yield f"at {where}: the file `{path}` is not in integrity.files"


def _path_and_folders(path: str) -> Iterator[str]:
    """Of an unsafe path, however deep, not more than those that a safe one could have."""
    parts = path[:MAX_PATH_CHARACTERS].split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
