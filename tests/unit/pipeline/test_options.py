"""An option is one field: its flag, its key in `edgeq.toml` and its keyword in Python are made of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import edgeq
from edgeq.api import ExportKeywords
from edgeq.cli.options import with_options
from edgeq.comparison import GateRequest
from edgeq.config import read_export_config
from edgeq.errors import UsageError
from edgeq.pipeline.flags import file_keys, flag, flags_of, with_keywords
from edgeq.pipeline.options import ExportOptions, export_options
from edgeq.pipeline.request import ExportRequest, parse_gates, request_from
from edgeq.quantize.recipes import load_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """Options of a command."""

    bounds: tuple[str, ...] = field(default=(), metadata=flag("Bounds.", name="bound", reads=list[str]))
    most_rows: int | None = field(default=None, metadata=flag("Rows.", short="-r", reads=int, least=2))
    fast: bool = field(default=False, metadata=flag("No checks.", reads=bool))


def toy_command(arguments: list[str]) -> tuple[int, list[Any], str]:
    found: list[Any] = []

    def command(given: dict[str, Any], place: str = "here", quiet: bool = False) -> None:
        """A command."""
        found.extend([given, place, quiet])

    app = typer.Typer()
    app.command()(with_options(Toy, before={"place": "fast"})(command))
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, found, result.output


def test_a_field_is_a_flag() -> None:
    code, found, _ = toy_command(["--bound", "a", "--bound", "b", "-r", "3", "--fast", "--quiet"])
    assert (code, found) == (0, [{"bound": ["a", "b"], "most_rows": 3, "fast": True}, "here", True])


def test_a_field_keeps_its_checks_and_its_place() -> None:
    code, found, output = toy_command(["--most-rows", "1"])
    assert (code, found) == (2, []) and "--most-rows" in output
    shown = toy_command(["--help"])[2]
    places = [shown.index(name) for name in ("--bound", "--most-rows", "--place", "--fast", "--quiet")]
    assert places == sorted(places) and "No checks." in shown


def test_a_field_is_a_key() -> None:
    assert file_keys(Toy) == {"bound": (str, list), "most_rows": int}


def test_a_field_is_a_keyword() -> None:
    @with_keywords(Toy)
    def rows(asked: Toy) -> int | None:
        """Rows."""
        return asked.most_rows

    assert rows(most_rows=5) == 5
    assert list(inspect.signature(rows).parameters) == ["bounds", "most_rows", "fast"]
    assert rows.__doc__ == "Rows.\n\nArgs:\n    bounds: Bounds.\n    most_rows: Rows.\n    fast: No checks."
    with pytest.raises(TypeError, match="fsat"):
        rows(fsat=True)  # type: ignore[call-arg]


def test_export_takes_every_option() -> None:
    parameters = inspect.signature(edgeq.export).parameters
    assert set(parameters) == {*flags_of(ExportOptions), "progress"}
    assert [name for name, item in parameters.items() if item.kind is not item.KEYWORD_ONLY] == ["model"]


def test_every_way_of_asking_gives_the_same_request(tmp_path: Path) -> None:
    lines = (
        'target = ["cpu"]\nprecision = "int4"\ncalib = "t.txt"\ncalib_column = "a,b"\ncalib_samples = 9\nios = 17',
        'seq_len = [64, 32]\ntask = "fill-mask"\nrevision = "r"\ngate = "cosine_mean>=0.9"\noutput = "out"',
        'variants = "cpu, nnapi"\nseed = 3\n',
    )
    (tmp_path / "edgeq.toml").write_text("\n".join(("[export]", *lines)))
    from_file = read_export_config({"seq_len": "32,64"}, tmp_path, lambda _: None, file_keys(ExportOptions))
    keywords = ExportKeywords(
        target="cpu",
        precision="int4",
        calib=Path("t.txt"),
        calib_column="a,b",
        calib_samples=9,
        seq_len=[32, 64],
        ios=17,
        task="fill-mask",
        revision="r",
        gates=["cosine_mean>=0.9"],
        output="out",
        variants=["cpu", "nnapi"],
        seed=3,
    )
    expected = ExportRequest(
        target=("cpu",),
        precision="int4",
        recipe=load_recipe("int4"),
        calib="t.txt",
        calib_column="a,b",
        calib_samples=9,
        seq_len=64,
        seq_lens=(32, 64),
        ios=17,
        task="fill-mask",
        revision="r",
        gates=(GateRequest("cosine_mean", ">=", 0.9),),
        output=Path("out"),
        variants=("cpu", "nnapi"),
        seed=3,
        is_recipe_chosen=True,
    )
    assert request_from(export_options(from_file)) == expected == request_from(keywords)


def test_nothing_asked_is_the_request_by_default() -> None:
    assert request_from(ExportOptions()) == ExportRequest()


@pytest.mark.parametrize("flags", [{"seed": 0}, {"calib_samples": 8}])
def test_a_flag_of_zero_is_given(flags: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "edgeq.toml").write_text("[export]\nseed = 5\ncalib_samples = 99\n")
    found = read_export_config({"force": False, **flags}, tmp_path, lambda _: None, file_keys(ExportOptions))
    assert found == {"seed": 5, "calib_samples": 99, **flags}


def test_what_was_read_may_be_given_again() -> None:
    recipe, gates = load_recipe("int4"), parse_gates(["cosine_mean>=0.9"])
    request = request_from(ExportOptions(recipe=recipe, gates=gates))
    assert request.recipe is recipe and request.gates == gates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "r.yaml", "precision": "int8"}, "contradict"),
        ({"slim": True, "sensitivity": True}, "--slim leaves out"),
        ({"gates": ["cosine_mean>=1", "cosine_mean>=0.9"]}, "two gates: cosine_mean>=1, cosine_mean>=0.9"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request_from(ExportOptions(**options))
