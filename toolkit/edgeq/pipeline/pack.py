"""`edgeq pack`: a smaller whole bundle out of a verified one, with its own manifest and hashes."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edgeq.bundle.archive import write_archive
from edgeq.bundle.golden import GOLDEN_FOLDER, GoldenCase, write_golden
from edgeq.bundle.language_golden import LANGUAGE_FILE, read_language_golden
from edgeq.bundle.manifest import Gate, Manifest, Status, Variant
from edgeq.bundle.package import COMPONENT_FILE, PACKAGE_FILE
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.bundle.writer import BundleWriter
from edgeq.errors import GateError, UsageError
from edgeq.files import ARCHIVE_SUFFIX, check_output
from edgeq.pipeline.explain import PLAN, read_plan
from edgeq.pipeline.golden_metrics import is_golden
from edgeq.pipeline.sensitivity import FILE_NAME as SENSITIVITY
from edgeq.progress import Progress, SilentProgress
from edgeq.report.html import REPORT_FILE, write_report
from edgeq.report.model_card import CARD_FILE, write_model_card

_WORDS = (CARD_FILE, REPORT_FILE)
_OF_REPORT = (REPORT_FILE, PLAN, SENSITIVITY)


@dataclass(frozen=True, slots=True)
class Slimming:
    """What a smaller bundle is without.

    Attributes:
        variants: to keep, by id or engine (`cpu-int8`, or `cpu` for every one of the CPU); empty keeps all.
        drop_goldens: without `golden/` and the gates that bound it.
        drop_report: without `report.html`, `plan.json` and `sensitivity.json`, which no app reads.
    """

    variants: tuple[str, ...] = ()
    drop_goldens: bool = False
    drop_report: bool = False


@dataclass(frozen=True, slots=True)
class PackRequest:
    """A bundle, what becomes of it, and where."""

    bundle: Path
    output: Path
    slimming: Slimming
    archive: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """The smaller bundle.

    Attributes:
        dropped: ids of the variants that are not in it.
        bytes_before: of all files of the bundle it was made from.
        bytes_after: of all its own.
    """

    bundle: Bundle
    dropped: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    archive: Path | None = None


def run_pack(request: PackRequest, progress: Progress | None = None) -> Packed:
    """Write the smaller bundle; the one it is made from is verified first and stays as it is.

    Raises:
        UsageError: an unknown variant, or the output is the bundle itself.
        GateError: the bundle failed its gate: nothing is made of it that looks as if it had passed.
        IntegrityError: a file is not the one the manifest lists.
        OutputError: the output exists and `force` is not set, or cannot be written.
    """
    progress = progress or SilentProgress()
    if request.output.resolve() == request.bundle.resolve():
        raise UsageError("--output is the bundle itself", hint="choose another --output")
    archive = request.output.with_name(request.output.name + ARCHIVE_SUFFIX) if request.archive else None
    if archive is not None and archive.resolve() == request.bundle.resolve():
        raise UsageError(f"the archive would replace `{request.bundle}`", hint="choose another --output")
    for destination in (request.output, archive):
        if destination is not None:
            check_output(destination, request.force)
    with progress.stage(f"verifying {request.bundle.name}"):
        source = open_bundle(request.bundle, force=True)
    with source, progress.stage(f"writing {request.output.name}"):
        packed = write_slim(source, request.output, request.slimming, force=request.force)
        if archive is not None:
            write_archive(request.output, archive, force=request.force)
    return replace(packed, archive=archive)


def write_slim(source: Bundle, output: Path, slimming: Slimming, *, force: bool) -> Packed:
    """Write what is left of an opened bundle, `output` itself included: it is replaced whole.

    Raises:
        EdgeqError: see `run_pack`.
    """
    manifest = source.manifest
    if manifest.status is Status.FAILED:
        raise GateError(
            f"`{source.path}` failed its quality gate, so nothing is packed from it",
            hint="edgeq inspect --force shows the gates; export it again with more or closer --calib texts",
        )
    kept = kept_variants(manifest, slimming.variants)
    dropped = tuple(variant.id for variant in manifest.variants if variant not in kept)
    files = list(_carried_files(manifest, kept, slimming))
    sizes = _sizes(manifest)
    if not dropped and not slimming.drop_goldens:
        files += [path for path in _WORDS if path in sizes and path not in _left_out(slimming)]
    with BundleWriter(output, force, needed_bytes=sum(sizes[path] for path in files)) as writer:
        for path in files:
            shutil.copyfile(source.file(path), writer.path(path))
        slim = _slim_manifest(source, writer, kept, slimming)
        bundle = _write_words(writer, slim, source, slimming)
    after = sum(_sizes(bundle.manifest).values())
    return Packed(bundle, dropped, sum(sizes.values()), after)


def kept_variants(manifest: Manifest, wanted: Sequence[str]) -> tuple[Variant, ...]:
    """Variants by id or engine, in the manifest's order; all where none is named.

    Raises:
        UsageError: a name fits none.
    """
    for name in wanted:
        if not any(_is_called(variant, name) for variant in manifest.variants):
            known = ", ".join(variant.id for variant in manifest.variants)
            raise UsageError(
                f"the bundle has no variant `{name}`; it has {known}", hint=f"--variants takes {known}"
            )
    return tuple(
        variant
        for variant in manifest.variants
        if not wanted or any(_is_called(variant, name) for name in wanted)
    )


def _is_called(variant: Variant, name: str) -> bool:
    """`cpu` is every variant of that engine: ids are `ENGINE-PRECISION`."""
    return name in (variant.id, variant.id.removesuffix(f"-{variant.precision}"))


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {entry.path: entry.size for entry in manifest.integrity.files}


def _carried_files(manifest: Manifest, kept: Collection[Variant], slimming: Slimming) -> Iterator[str]:
    """Files that are as true as they were: not those of dropped variants, golden cases, and words about both."""
    mine = {variant.folder for variant in kept}
    gone = {variant.folder for variant in manifest.variants} - mine
    other = (*_WORDS, PACKAGE_FILE, COMPONENT_FILE, *_left_out(slimming))
    for path in _sizes(manifest):
        folders = PurePosixPath(path).parents
        of_others = any(folder in gone for folder in folders) and not any(
            folder in mine for folder in folders
        )
        if path not in other and not path.startswith(f"{GOLDEN_FOLDER}/") and not of_others:
            yield path


def _left_out(slimming: Slimming) -> tuple[str, ...]:
    return _OF_REPORT if slimming.drop_report else ()


def _slim_manifest(
    source: Bundle, writer: BundleWriter, kept: Sequence[Variant], slimming: Slimming
) -> Manifest:
    """The manifest of what is left; keys of newer versions stay where they were."""
    ids = {variant.id for variant in kept}
    document = source.manifest.to_json()
    document["variants"] = [item for item in document["variants"] if item["id"] in ids]
    for key in ("gates", "metrics"):
        document[key] = [item for item in document.get(key, []) if item["variant"] in ids]
    # Filled in by the writer; until then, what is named has to be listed.
    document["golden"] = []
    document.pop("language_golden", None)
    _set_bits_per_weight(document, source.manifest, kept[0])
    slim = Manifest.from_json(document)
    if slimming.drop_goldens:
        return replace(slim, gates=tuple(gate for gate in slim.gates if not is_golden(gate)))
    return _with_goldens(slim, source, writer, ids)


def _set_bits_per_weight(document: dict[str, Any], manifest: Manifest, first: Variant) -> None:
    """It is said of the first variant, which may be another one now."""
    quantization = document.get("quantization", {})
    if "bits_per_weight" in quantization and first.id != manifest.variants[0].id:
        quantization["bits_per_weight"] = round(8 * first.size_bytes / manifest.source.parameters, 2)


def _with_goldens(slim: Manifest, source: Bundle, writer: BundleWriter, ids: Collection[str]) -> Manifest:
    """Cases with the outputs and tolerances of the kept variants; one that only others took is left out."""
    tolerances: dict[str, tuple[Gate, ...]] = {
        entry.id: tuple(gate for gate in entry.tolerances if gate.variant in ids)
        for entry in source.manifest.golden
    }
    cases = [_with_outputs(case, ids) for case in source.golden_cases()]
    cases = [case for case in cases if case.outputs]
    if cases:
        slim = replace(slim, golden=write_golden(writer.folder, cases, tolerances))
    if source.manifest.language_golden is None:
        return slim
    _write_language_golden(source, writer, slim)
    return replace(slim, language_golden=source.manifest.language_golden)


def _with_outputs(case: GoldenCase, ids: Collection[str]) -> GoldenCase:
    return replace(case, outputs={name: found for name, found in case.outputs.items() if name in ids})


def _write_language_golden(source: Bundle, writer: BundleWriter, slim: Manifest) -> None:
    """As it is, but for answers of a variant that is not there any more."""
    golden = read_language_golden(source.folder)
    ids = [variant.id for variant in slim.variants]
    if golden is None or golden.greedy.variant in ids:
        shutil.copyfile(source.file(LANGUAGE_FILE), writer.path(LANGUAGE_FILE))
        return
    reason = f"recorded of {golden.greedy.variant}, which this bundle was packed without"
    greedy = replace(golden.greedy, variant=ids[0], derived_from=reason, answers=())
    replace(golden, greedy=greedy).save(writer.folder)


def _write_words(writer: BundleWriter, slim: Manifest, source: Bundle, slimming: Slimming) -> Bundle:
    """The card and the report of what is left, where the old ones speak of more and were not carried over."""
    listed = _sizes(source.manifest)
    missing = [path for path in _WORDS if path in listed and not writer.path(path).exists()]
    if CARD_FILE in missing:
        write_model_card(writer.folder, slim)
    if REPORT_FILE in missing and REPORT_FILE not in _left_out(slimming):
        write_report(writer.folder, slim, read_plan(source))
    return writer.commit(slim)
