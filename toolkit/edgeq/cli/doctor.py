"""`edgeq doctor`: what is installed and what this machine can do; sets up the ARM64 lane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.output import Out
from edgeq.errors import UsageError
from edgeq.runtime.host import CPU_FEATURES, host_architecture

if TYPE_CHECKING:
    from edgeq.runtime.diagnosis import Diagnosis, Package

_LANES = ("arm64",)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    setup: Annotated[
        str | None,
        typer.Option(
            "--setup",
            metavar="arm64",
            help="Set up what `--on arm64` needs: the ARM64 ONNX Runtime, in the cache folder, without root.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Cache folder instead of $EDGEQ_CACHE or $XDG_CACHE_HOME/edgeq.",
            show_default=False,
        ),
    ] = None,
    apt_sources: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --setup: a sources.list to fetch ARM64 packages from, instead of the system's.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    json_mode: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables.")] = False,
) -> None:
    """Show versions, extras, CPU features, disk, cache, the ARM64 lane and attached phones."""
    out = Out(json_mode=json_mode, quiet=quiet)
    if setup is not None:
        _set_up(out, setup, cache, apt_sources)
    elif apt_sources is not None:
        raise UsageError("--apt-sources goes with --setup arm64")
    else:
        _report(out, cache)


def _set_up(out: Out, name: str, cache: Path | None, apt_sources: Path | None) -> None:
    if name not in _LANES:
        raise UsageError(f"unknown --setup: got `{name}`, expected {', '.join(_LANES)}")
    from edgeq.runtime.arm64.lane_setup import set_up_lane

    if host_architecture() == "arm64":
        out.notice("this machine is ARM64: its own ONNX Runtime is the lane, nothing to set up")
        out.result({"state": "native"}, "native")
        return
    with out.progress() as progress:
        lane = set_up_lane(cache, apt_sources=apt_sources, stage=progress.stage)
    facts = {
        "state": "ready",
        "folder": str(lane.folder),
        "onnxruntime": lane.onnxruntime,
        "python": lane.python,
        "emulator": str(lane.emulator),
        "emulator_version": lane.emulator_version,
    }
    out.notice("ready: add --on arm64 to edgeq validate or edgeq run")
    out.result(facts, str(lane.folder))


def _report(out: Out, cache: Path | None) -> None:
    from dataclasses import asdict

    from edgeq.runtime.diagnosis import diagnose

    diagnosis = diagnose(cache)
    out.table(None, ["this machine", ""], _machine_rows(diagnosis))
    out.table(None, ["package", "installed", "needs", "for"], [_package_row(p) for p in diagnosis.packages])
    out.result(asdict(diagnosis))


def _machine_rows(found: Diagnosis) -> list[list[str]]:
    rows = [[name, version] for name, version in found.versions.items()]
    rows += [["platform", found.platform], ["cpu", found.cpu]]
    rows += [[f"  {name}", f"{_yes(has)}: {_why(name)}"] for name, has in found.cpu_features.items()]
    rows.append(["  uint8 x int8 sums", _sums(saturate=found.kernels_saturate)])
    rows += [[f"extra {name}", _installed(name, has)] for name, has in found.extras.items()]
    rows += [
        ["cache", f"{found.cache} ({_size(found.cache_bytes)} used, {_size(found.free_bytes)} free)"],
        ["ARM64 lane", f"{found.arm64.state}: {found.arm64.details}"],
        ["adb", _describe_adb(found.adb)],
    ]
    return rows


def _package_row(package: Package) -> list[str]:
    version = package.version or "missing"
    mark = "" if package.satisfied or package.version is None else " (does not fit)"
    return [package.name, f"{version}{mark}", package.required, package.extra or "edgeq"]


def _sums(*, saturate: bool) -> str:
    if not saturate:
        return "exact (tried)"
    return (
        "saturate in 16 bits (tried); int8 layers that edgeq writes cannot, and ONNX Runtime is asked for exact sums "
        "of others, which it has from ORT_ENABLE_EXTENDED on, where their weights are in the file"
    )


def _yes(has: bool | None) -> str:
    return "unknown" if has is None else "yes" if has else "no"


def _why(feature: str) -> str:
    return next(features[feature] for features in CPU_FEATURES.values() if feature in features)


def _installed(name: str, complete: bool) -> str:
    return "installed" if complete else f"not installed: pip install 'edgeq[{name}]'"


def _describe_adb(devices: dict[str, str] | None) -> str:
    if devices is None:
        return "not on PATH"
    return ", ".join(f"{serial} ({state})" for serial, state in devices.items()) or "no device attached"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
