from __future__ import annotations

import copy
import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgeq.bundle.manifest import Manifest, PostprocessKind, PreprocessKind, Status
from edgeq.bundle.schema import load_schema
from edgeq.errors import IntegrityError
from edgeq.types import Role, Task, Verification


@pytest.fixture
def document(tiny_bundle: Path) -> dict[str, Any]:
    return json.loads((tiny_bundle / "edgeq.json").read_text())


def test_round_trip_is_exact(document: dict[str, Any]) -> None:
    manifest = Manifest.from_json(document)
    assert manifest.to_json() == document
    assert Manifest.from_text(manifest.to_text()) == manifest
    assert manifest.variants[1].inputs[1].role is Role.ATTENTION_MASK
    assert manifest.metrics[0].verification is Verification.EXECUTED_OTHER_ARCH


def test_unknown_keys_of_a_newer_minor_survive(document: dict[str, Any]) -> None:
    document["format"]["version"] = "2.7"
    document["signature"] = {"by": "someone"}
    document["variants"][1]["energy_mj"] = 3.5
    document["variants"][0]["inputs"][1]["layout"] = "NS"
    manifest = Manifest.from_json(copy.deepcopy(document))
    assert manifest.to_json() == document
    # They follow their variant, not its position.
    swapped = replace(manifest, variants=manifest.variants[::-1]).to_json()
    assert swapped["variants"][0]["energy_mj"] == 3.5
    assert swapped["variants"][1]["inputs"][1]["layout"] == "NS"
    # And leave with it.
    alone = replace(manifest, variants=manifest.variants[:1]).to_json()
    assert "energy_mj" not in alone["variants"][0]


@pytest.mark.parametrize("version", ["3.0", "10.1", "0.9"])
def test_a_newer_major_is_refused_naming_both(document: dict[str, Any], version: str) -> None:
    # A newer major may look entirely different: it must be recognized before the schema complains.
    with pytest.raises(IntegrityError, match=rf"format {version}; this edgeq reads format 2\.0 and older"):
        Manifest.from_json({"format": {"name": "edgeq", "version": version}})


@pytest.mark.parametrize("format_", [None, "edgeq", {"name": "other", "version": "1.0"}, {"name": "edgeq"}])
def test_what_is_not_our_format_is_refused(document: dict[str, Any], format_: Any) -> None:
    document["format"] = format_
    with pytest.raises(IntegrityError):
        Manifest.from_json(document)


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    node: Any = document
    *parents, last = path.split("/")
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "variants/0/inputs/0/dtype",
            3,
            r"at variants\[0\]\.inputs\[0\]\.dtype: got 3, expected one of bool",
        ),
        ("variants/0/size_bytes", "big", r'at variants\[0\]\.size_bytes: got "big", expected type integer'),
        ("variants/0/size_bytes", -1, "expected a number from 0 up"),
        ("variants/0/inputs/0/shape", ["batch", -2], r"shape\[1\]"),
        ("variants", [], "variants"),
        (
            "variants/0/placement",
            {"can_saturate": "abc"},
            r'placement\.can_saturate: got "abc", expected type array',
        ),
        ("variants/0/placement", {"can_saturate": [3]}, r"can_saturate\[0\]: got 3, expected type string"),
        ("status", "fine", 'got "fine", expected one of passed, failed'),
        ("integrity/algorithm", "md5", 'expected "sha256"'),
        ("integrity/files/0/sha256", "ABC", "expected text like"),
        ("preprocess/0/step", "exec", "expected one of tokenize"),
        ("source/task", "telepathy", "expected one of"),
        ("gates/0/op", "==", "expected one of >=, <="),
        ("gates/0/variant", "gpu", "the variant `gpu` is not in the bundle"),
        ("metrics/0/variant", "gpu", "the variant `gpu` is not in the bundle"),
        ("golden/0/tolerances/0/variant", "gpu", "the variant `gpu` is not in the bundle"),
        ("variants/1/id", "cpu-fp32", "the variant id `cpu-fp32` is there 2 times"),
        ("variants/0/models/model", "model/other.onnx", "`model/other.onnx` is not in integrity.files"),
        ("golden/0/path", "golden/none.npz", "`golden/none.npz` is not in integrity.files"),
        ("processor/text/path", "tok", "`tok` is not in integrity.files"),
        ("language_golden", "golden/language.json", "`golden/language.json` is not in integrity.files"),
        ("language_golden", "golden/other.json", 'expected "golden/language.json"'),
        ("gates/0/output", "logits", "the variant `cpu-fp32` has no output `logits`"),
        ("golden/0/tolerances/0/output", "logits", "the variant `cpu-fp32` has no output `logits`"),
        ("postprocess", [{"step": "softmax", "outputs": ["logits"]}], "no variant has an output `logits`"),
        (
            "postprocess",
            [{"step": "answer_span", "outputs": ["last_hidden_state"]}],
            "it reads 1 outputs, expected 2",
        ),
    ],
)
def test_violations_name_place_value_and_expectation(
    document: dict[str, Any], path: str, value: Any, message: str
) -> None:
    _set(document, path, value)
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(document)


def test_names_that_differ_in_case_alone_are_refused(document: dict[str, Any]) -> None:
    twin = {**document["integrity"]["files"][0]}
    twin["path"] = twin["path"].upper()
    document["integrity"]["files"].append(twin)
    with pytest.raises(IntegrityError, match="2 times"):
        Manifest.from_json(document)


@pytest.mark.parametrize("key", ["variants", "source", "integrity", "created_by", "name", "status"])
def test_every_required_key_is_missed(document: dict[str, Any], key: str) -> None:
    del document[key]
    with pytest.raises(IntegrityError, match=f"expected the keys .*{key}"):
        Manifest.from_json(document)


def test_many_violations_are_counted(document: dict[str, Any]) -> None:
    for entry in document["integrity"]["files"]:
        entry["sha256"] = "x"
    with pytest.raises(IntegrityError, match=r"and \d+ more"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, b"\xff\xfe{", '{"a": 1e999}'],
)
def test_malformed_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_text(text)


def test_only_utf_8_is_read(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "edgeq.json").read_text()
    assert Manifest.from_text(text.encode()) == Manifest.from_text(text)
    with pytest.raises(IntegrityError, match="utf-8"):
        Manifest.from_text(text.encode("utf-16"))


def test_nan_is_not_written(document: dict[str, Any]) -> None:
    manifest = Manifest.from_json(document)
    broken = replace(manifest, metrics=(replace(manifest.metrics[0], value=float("nan")),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.to_text()


def test_the_schema_is_valid_and_speaks_our_vocabulary() -> None:
    schema = load_schema()
    Draft202012Validator.check_schema(schema)
    properties, definitions = schema["properties"], schema["$defs"]
    pairs: list[tuple[type[StrEnum], Any]] = [
        (Task, properties["source"]["properties"]["task"]),
        (Status, properties["status"]),
        (PreprocessKind, properties["preprocess"]["items"]["properties"]["step"]),
        (PostprocessKind, properties["postprocess"]["items"]["properties"]["step"]),
        (Verification, properties["metrics"]["items"]["properties"]["verification"]),
        (Role, definitions["tensor"]["properties"]["role"]),
    ]
    for kind, node in pairs:
        assert sorted(node["enum"]) == sorted(kind)


def test_an_unknown_variant_is_named_with_the_known_ones(document: dict[str, Any]) -> None:
    manifest = Manifest.from_json(document)
    assert manifest.variant("nnapi-fp32") is manifest.variants[1]
    with pytest.raises(IntegrityError, match="has no variant `gpu`; it has cpu-fp32, nnapi-fp32"):
        manifest.variant("gpu")
