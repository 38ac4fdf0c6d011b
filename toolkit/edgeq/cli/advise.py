"""`edgeq advise`: which precision fits a device and a use, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.options import Json
from edgeq.cli.output import Out
from edgeq.errors import ConfigError

if TYPE_CHECKING:
    from edgeq.pipeline.advise import Advice, Option

EXAMPLES = """
Examples:

- `edgeq advise sentence-transformers/all-MiniLM-L6-v2 --ram 3GB --target android`
- `edgeq advise Qwen/Qwen3-1.7B --ram 8GB --tolerance low --context 8192`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("advise", epilog=EXAMPLES)(advise)


def advise(
    model: Annotated[
        str, typer.Argument(help="Hugging Face folder or Hub id; its config is enough.", show_default=False)
    ],
    ram: Annotated[str, typer.Option(help="Memory of the device: 4GB, 512MB, 3.5GiB.", show_default=False)],
    tolerance: Annotated[
        str,
        typer.Option(
            help="What the use can bear: low (code, arithmetic), medium (chat, search) or high (creative text)."
        ),
    ] = "medium",
    target: Annotated[str, typer.Option("--target", "-t", help="Platform. See `edgeq targets`.")] = "cpu",
    context: Annotated[
        int | None, typer.Option(help="Tokens of a text, or of prompt and answer together.", min=1)
    ] = None,
    share: Annotated[float, typer.Option(help="Part of the memory that the app may use.")] = 0.5,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the Hub.")] = None,
    json: Json = False,
) -> None:
    """Say which precision fits a device, from the model's config alone.

    Memory is the peak of one process that loads the model in ONNX Runtime on a CPU and runs one text. Exits with 1
    when nothing fits.
    """
    from edgeq.exporters.source import ignored_revision
    from edgeq.pipeline.advise import Request, parse_size, parse_tolerance
    from edgeq.pipeline.advise import advise as ask

    out = Out(json_mode=json)
    request = Request(model, parse_size(ram), target, parse_tolerance(tolerance), context, share, revision)
    ignored = ignored_revision(model, revision)
    if ignored is not None:
        out.notice(ignored)
    advice = ask(request)
    _show(out, advice)
    out.result(advice.to_json())
    if advice.recommended is None:
        hint = None if advice.is_refused else "a shorter --context, a larger --share, or a smaller model"
        raise ConfigError(advice.why, hint=hint)


def _show(out: Out, advice: Advice) -> None:
    from edgeq.pipeline.advise import megabytes

    if out.json_mode:
        return
    request, shape = advice.request, advice.shape
    out.notice(
        f"{shape.architecture}, {shape.parameters / 1e6:.1f} M parameters ({_largest_roles(advice)}); planned for "
        f"{advice.tokens} tokens"
    )
    out.notice(
        f"budget {megabytes(request.budget_bytes)}: {request.share:.0%} of {megabytes(request.ram_bytes)}, the rest is "
        "the system's and other apps'"
    )
    if advice.is_computed:
        out.notice(
            f"memory is the file, a KV cache of {advice.tokens} tokens and activations, computed: nothing of "
            f"{request.target} was measured"
        )
    elif request.measured_elsewhere:
        out.notice(f"memory is that of ONNX Runtime's CPU provider; {request.target}'s own was not measured")
    columns = ("recipe", "bits", "download", "RAM", "fits", "expected quality", "why")
    out.table(None, columns, [_row(advice, option) for option in advice.options])
    if advice.not_weighed:
        out.notice(
            f"not weighed: {', '.join(advice.not_weighed)}, which {request.target} takes; nothing of their memory was "
            "measured (edgeq recipes)"
        )
    if advice.recommended is not None:
        out.notice(f"take {advice.recommended}: {advice.why}")
        out.notice(f"tolerance {request.tolerance} means {request.tolerance.meaning}")
        length = "" if advice.seq_len is None else f" --seq-len {advice.seq_len}"
        out.notice(
            f"edgeq export {request.model} --target {request.target} --precision {advice.recommended}{length}"
        )


def _largest_roles(advice: Advice) -> str:
    total = advice.shape.parameters
    largest = sorted(advice.roles.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{role} {count / total:.0%}" for role, count in largest)


def _row(advice: Advice, option: Option) -> tuple[str, ...]:
    from edgeq.pipeline.advise import megabytes

    chosen = " *" if option.recipe == advice.recommended else ""
    fits = "no" if not option.fits else "yes" if option.refusal is None else "-"
    return (
        f"{option.recipe}{chosen}",
        f"{option.bits:.2f}",
        megabytes(option.download_bytes),
        megabytes(option.footprint.ram),
        fits,
        option.quality if option.tolerated else f"{option.quality} (below tolerance)",
        option.refusal or option.reason,
    )
