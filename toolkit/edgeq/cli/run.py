"""`edgeq run`: what a bundle answers to some texts or tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.generate import GenerateOptions, generate
from edgeq.cli.output import Out
from edgeq.cli.streams import read_stdin
from edgeq.errors import DataError, UsageError
from edgeq.samples import as_samples

if TYPE_CHECKING:
    from edgeq.runtime.executors import Executor
    from edgeq.runtime.runtime import Runtime
    from edgeq.samples import Sample
    from edgeq.types import Array, Feeds, Outputs, Verification

_SHOWN_VALUES = 6
_SHOWN_CHARACTERS = 48


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    bundle_path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle folder or .edgeq archive.", show_default=False)
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="A text, again for more; - reads one from stdin.", show_default=False),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", help="The second text of a pair, one per --text.", show_default=False),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            help="Whose prompt goes before the texts: query, document, or another that the bundle has.",
            show_default="the model's default prompt, if it has one",
        ),
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(
            "--npz", help="Model inputs by name, or a golden file, instead of texts.", show_default=False
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            help="Many texts for --output: one per line, or .jsonl of strings, {text} or {text, pair}.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="vectors.npy (a row per text) or answers.jsonl.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What a language model continues; - reads stdin.", show_default=False),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message: apply the model's chat template.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Most tokens to generate (128).")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it is generated.")] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Sample; 0 takes the likeliest token (0).")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Sample from the likeliest tokens of this probability (1)."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Sample from so many likeliest tokens (0: all).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of sampling (0).")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="onnxruntime, genai or llama.cpp (the variant's own).")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Which variant to run.", show_default="the first that runs"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads.", show_default="ONNX Runtime chooses")
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="Where to execute: native, or arm64 (edgeq doctor --setup arm64).")
    ] = "native",
    cpu: Annotated[str, typer.Option("--cpu", help="Emulated core of --on arm64.")] = "cortex-a76",
    force: Annotated[bool, typer.Option("--force", help="Run a bundle that failed its gate.")] = False,
    json_mode: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run a bundle on texts, tensors or a prompt, as an app would.

    Every file is verified first. Question answering takes the question as --text and the context as --pair.
    A Core ML package runs on a Mac; elsewhere edgeq interprets it, and says so.
    """
    from edgeq.pipeline.batch_run import check_batch_output
    from edgeq.pipeline.sessions import open_other
    from edgeq.runtime.executors import level_of
    from edgeq.runtime.runtime import load
    from edgeq.tasks.older import unsaid_kind

    options = GenerateOptions(prompt, chat, max_tokens, stream, temperature, top_p, top_k, seed, engine)
    if options.are_given:
        if text or pair or npz or texts or output or role:
            raise UsageError(
                "--prompt and its options are for language models; --text, --texts, --pair, --role and --npz are not"
            )
        generate(bundle_path, options, variant=variant, threads=threads, force=force, json_mode=json_mode)
        return
    if role is not None and npz is not None:
        raise UsageError("--role puts a prompt before texts; --npz has none")
    out = Out(json_mode=json_mode)
    if texts is not None or output is not None:
        if texts is None or output is None or text or pair or npz or on != "native":
            raise UsageError(
                "--texts FILE goes with --output FILE, and with no --text, --pair, --npz or --on",
                hint="edgeq run BUNDLE --texts texts.txt --output vectors.npy",
            )
        check_batch_output(output)
        with load(
            bundle_path, variant=variant, force=force, threads=threads, open_other=open_other
        ) as runtime:
            _run_batch(out, runtime, texts, output, role)
        return
    samples = _samples(_with_stdin(text or []), pair or [], npz)
    with load(bundle_path, variant=variant, force=force, threads=threads, open_other=open_other) as runtime:
        feeds = runtime.prepare(samples, role=role) if npz is None else _read_npz(npz)
        _warn_truncated(out, runtime, samples, role)
        executor = None if on == "native" else _executor(on, cpu)
        outputs = _outputs(out, runtime, feeds, executor)
        level = runtime.verification if executor is None else level_of(executor, runtime.variant)
        answers = runtime.interpret(outputs, feeds)
    _warn_not_finite(out, outputs)
    unsaid = unsaid_kind(runtime.manifest) if answers else None
    if unsaid is not None:
        out.notice(unsaid)
    out.result(_document(runtime, level, outputs, answers))
    titles = [_shorten(sample) for sample in samples] or [f"input {row}" for row in range(_rows(outputs))]
    _show(out, runtime, titles, outputs, answers)


def _run_batch(out: Out, runtime: Runtime, texts: Path, output: Path, role: str | None) -> None:
    from edgeq.pipeline.batch_run import run_texts

    with out.progress() as progress:
        done = run_texts(runtime, texts, output, progress, role=role)
    if done.cut:
        limit = runtime.preprocessor.max_length if runtime.preprocessor else 0
        out.warn(f"{done.cut} of {done.texts} texts are longer than the {limit} tokens that the model sees")
    if done.not_finite:
        out.warn(f"{done.not_finite} values are NaN or infinite (null in JSON)")
    facts = {"variant": runtime.variant.id, "output": str(output), "texts": done.texts, "cut": done.cut}
    out.result({**facts, "not_finite": done.not_finite}, str(output))


def _with_stdin(texts: list[str]) -> list[str]:
    """`-` once is what stdin holds, without the line end that shells add."""
    if "-" not in texts:
        return texts
    if texts.count("-") > 1:
        raise UsageError("--text - reads stdin, which can be read once")
    read = read_stdin().removesuffix("\n").removesuffix("\r")
    if not read.strip():
        raise DataError("stdin is empty, expected a text")
    return [read if text == "-" else text for text in texts]


def _executor(on: str, cpu: str) -> Executor:
    from edgeq.runtime.executors import open_executor

    if on != "arm64":
        raise UsageError(
            f"--on takes native or arm64, got `{on}`", hint="edgeq validate --on adb runs on a phone"
        )
    return open_executor("arm64", cpu=cpu)


def _outputs(out: Out, runtime: Runtime, feeds: Feeds, executor: Executor | None) -> Outputs:
    from edgeq.types import Verification

    if executor is not None:
        return runtime.run_on(executor, feeds)
    if runtime.verification is not Verification.SIMULATED:
        return runtime.run(feeds=feeds)
    name, needs = runtime.variant.id, runtime.variant.runtime
    out.notice(f"{name} needs {needs}, which is not here; edgeq's interpreter runs it (level: simulated)")
    with out.progress() as progress, progress.stage(f"interpreting {name}"):
        return runtime.run(feeds=feeds)


def _samples(texts: list[str], pairs: list[str], npz: Path | None) -> list[Sample]:
    if bool(texts) == (npz is not None):
        raise UsageError(
            "run takes --text (once or more), --texts or --npz, one of them; --prompt for language models",
            hint="edgeq run --help",
        )
    if pairs and len(pairs) != len(texts):
        raise UsageError(f"got {len(texts)} --text and {len(pairs)} --pair; expected one pair for each text")
    return as_samples(zip(texts, pairs, strict=True) if pairs else texts)


def _read_npz(path: Path) -> Feeds:
    from edgeq.arrays import model_inputs, read_arrays

    try:
        return model_inputs(read_arrays(path))
    except FileNotFoundError as error:
        raise DataError(f"there is no file `{path}`") from error
    except ValueError as error:
        raise DataError(str(error)) from error


def _warn_truncated(out: Out, runtime: Runtime, samples: Sequence[Sample], role: str | None) -> None:
    if runtime.preprocessor is None or not samples:
        return
    preprocessor = runtime.preprocessor if role is None else runtime.preprocessor.with_role(role)
    limit = preprocessor.max_length
    for sample in samples:
        if preprocessor.is_longer(sample):
            out.warn(f"{_shorten(sample)!r} has more than {limit} tokens; the model sees the first {limit}")


def _warn_not_finite(out: Out, outputs: Outputs) -> None:
    import numpy as np

    for name, array in outputs.items():
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            out.warn(f"{bad} of {array.size} values of `{name}` are NaN or infinite (null in JSON)")


def _document(
    runtime: Runtime, level: Verification, outputs: Outputs, answers: list[dict[str, Any]]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "variant": runtime.variant.id,
        "verification": str(level),
        "outputs": {name: array.tolist() for name, array in outputs.items()},
    }
    return document | ({"answers": answers} if answers else {})


def _rows(outputs: Outputs) -> int:
    return next((array.shape[0] for array in outputs.values() if array.ndim), 1)


def _show(
    out: Out, runtime: Runtime, titles: Sequence[str], outputs: Outputs, answers: list[dict[str, Any]]
) -> None:
    from edgeq.types import Role

    if answers:
        for title, answer in zip(titles, answers, strict=True):
            _show_answer(out, title, answer)
        return
    for spec in runtime.outputs:
        if spec.role is Role.SENTENCE_EMBEDDING:
            _show_embeddings(out, titles, outputs[spec.name])
        else:
            _show_tensor(out, spec.name, outputs[spec.name])


def _show_answer(out: Out, title: str, answer: dict[str, Any]) -> None:
    scores = answer.get("scores")
    if scores:
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        out.table(title, ["label", "probability"], [[name, f"{value:.4f}"] for name, value in ranked])
    elif "label" in answer:
        out.table(title, ["label"], [[answer["label"]]])
    if "values" in answer:
        rows = [[name, f"{value:.4f}"] for name, value in answer["values"].items()]
        out.table(title, ["value", "score"], rows)
    elif "score" in answer and "answer" not in answer:
        out.table(title, ["score"], [[f"{answer['score']:.4f}"]])
    if "tokens" in answer:
        rows = [[item["token"], item["label"]] for item in answer["tokens"]]
        out.table(title, ["token", "label"], rows)
    if "answer" in answer:
        row = [answer["answer"], f"{answer['start']}-{answer['end']}", f"{answer['score']:.4f}"]
        out.table(title, ["answer", "tokens", "score"], [row])
    for mask in answer.get("masks", []):
        rows = [[item["token"], f"{item['score']:.4f}"] for item in mask]
        out.table(title, ["word", "probability"], rows)


def _show_embeddings(out: Out, titles: Sequence[str], embeddings: Array) -> None:
    import numpy as np

    norms = np.linalg.norm(embeddings.astype(np.float64), axis=-1)
    rows = [
        [str(index + 1), title, _values(row), f"{norm:.4f}"]
        for index, (title, row, norm) in enumerate(zip(titles, embeddings, norms, strict=True))
    ]
    heading = f"Sentence embeddings, {embeddings.shape[-1]} values each"
    out.table(heading, ["#", "text", "values", "norm"], rows)
    if len(titles) > 1:
        out.table(
            "Cosine similarity", ["#", *(str(i + 1) for i in range(len(titles)))], list(_cosines(embeddings))
        )


def _cosines(embeddings: Array) -> Iterator[list[str]]:
    import numpy as np

    wide = embeddings.astype(np.float64)
    units = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    for index, row in enumerate(units @ units.T):
        yield [str(index + 1), *(f"{value:.4f}" for value in row)]


def _show_tensor(out: Out, name: str, array: Array) -> None:
    rows = [[str(index + 1), _values(row)] for index, row in enumerate(array.reshape(_leading(array), -1))]
    out.table(f"{name}: {array.dtype} {list(array.shape)}", ["#", "values"], rows)


def _leading(array: Array) -> int:
    return array.shape[0] if array.ndim else 1


def _values(row: Array) -> str:
    shown = ", ".join(f"{value:.4g}" for value in row.ravel()[:_SHOWN_VALUES].tolist())
    return f"[{shown}{', ...' if row.size > _SHOWN_VALUES else ''}]"


def _shorten(sample: Sample) -> str:
    text = " ".join(" | ".join(sample.texts).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
