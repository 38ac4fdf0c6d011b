"""Opens a bundle, folder or archive: nothing is loaded before everything is verified."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from edgeq.bundle.archive import unpack_archive
from edgeq.bundle.foreign import refuse_foreign
from edgeq.bundle.golden import GoldenCase, read_golden
from edgeq.bundle.integrity import check_hashes, check_listing
from edgeq.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, Status, Variant
from edgeq.errors import GateError, IntegrityError, ModelError
from edgeq.files import ARCHIVE_SUFFIX, BUNDLE_MARKER, contained_path
from edgeq.onnx_references import check_references
from edgeq.scratch import ScratchFolder
from edgeq.types import COMPONENT


class Bundle:
    """An opened bundle; close it, or use it in a `with` block, when it came from an archive.

    Attributes:
        path: what was opened: the folder or the archive.
        folder: where its files are; a private temporary folder for an archive, removed by `close`.
        manifest: the contents of `edgeq.json`.
    """

    def __init__(
        self, path: Path, folder: Path, manifest: Manifest, *, scratch: ScratchFolder | None = None
    ) -> None:
        self.path = path
        self.folder = folder
        self.manifest = manifest
        self._scratch = scratch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, variants={[variant.id for variant in self.manifest.variants]})"

    def close(self) -> None:
        """Remove the temporary files of an archive."""
        if self._scratch is not None:
            self._scratch.remove()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants, most preferred first."""
        return self.manifest.variants

    def variant(self, variant_id: str) -> Variant:
        """The variant with this id.

        Raises:
            ModelError: there is none.
        """
        for variant in self.manifest.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.manifest.variants)
        raise ModelError(f"`{self.path}` has no variant `{variant_id}`; it has {known}")

    def file(self, relative: str) -> Path:
        """Path of a file or folder of the bundle.

        Raises:
            IntegrityError: the path leaves the bundle, or nothing listed is there.
        """
        path = contained_path(self.folder, relative)
        listed = (entry.path for entry in self.manifest.integrity.files)
        if relative == BUNDLE_MARKER or any(
            name == relative or name.startswith(relative + "/") for name in listed
        ):
            return path
        raise IntegrityError(f"`{relative}` is not a file of the bundle `{self.path}`")

    def model_path(self, variant: Variant, component: str = COMPONENT) -> Path:
        """Path of a variant's graph: a file, or a `.mlpackage` folder.

        Raises:
            UnsupportedError: the variant has no such component.
            IntegrityError: the path leaves the bundle, or nothing listed is there.
        """
        return self.file(variant.component_file(component))

    def golden_cases(self) -> list[GoldenCase]:
        """The golden cases with all their stages."""
        return read_golden(self.folder, self.manifest.golden)


def open_bundle(path: str | Path, *, force: bool = False, verify: bool = True) -> Bundle:
    """Open a bundle folder or a `.edgeq` archive.

    Args:
        path: the folder or the archive.
        force: open it even if it failed its quality gate.
        verify: compare every file's SHA-256 with the manifest. Without it only the manifest, the list of
            files and their sizes are checked.

    Raises:
        ModelError: nothing is there.
        IntegrityError: a changed, missing, unlisted or unsafe file, a model that refers to files outside the bundle or
            to operators of other libraries, or a newer major format.
        GateError: the bundle failed its gate and `force` is not set.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"there is no bundle at `{path}`", hint="edgeq export --help")
    refuse_foreign(path)
    if path.is_dir():
        return _open_folder(path, path, _read_manifest(path), force=force, verify=verify)
    if not path.is_file():
        raise ModelError(f"`{path}` is neither a folder nor a file, expected a bundle")
    scratch = ScratchFolder("bundle")
    try:
        manifest = unpack_archive(path, scratch.path)
        return _open_folder(path, scratch.path, manifest, force=force, verify=verify, scratch=scratch)
    except BaseException:
        scratch.remove()
        raise


def looks_like_bundle(path: Path) -> bool:
    """Whether a path claims to be a bundle: a folder with `edgeq.json`, or a file named `*.edgeq`."""
    return (path / BUNDLE_MARKER).is_file() or (path.is_file() and path.suffix == ARCHIVE_SUFFIX)


def _open_folder(
    path: Path,
    folder: Path,
    manifest: Manifest,
    *,
    force: bool,
    verify: bool,
    scratch: ScratchFolder | None = None,
) -> Bundle:
    check_listing(folder, manifest.integrity)
    if verify:
        check_hashes(folder, manifest.integrity)
        _check_models(folder, manifest)
    if manifest.status is Status.FAILED and not force:
        raise GateError(
            f"`{path}` failed its quality gate{_failed_gates(manifest)}", hint="open it with --force"
        )
    return Bundle(path, folder, manifest, scratch=scratch)


def _check_models(folder: Path, manifest: Manifest) -> None:
    """What is hashed may still point outside: whoever made the bundle wrote it."""
    for entry in manifest.integrity.files:
        if entry.path.endswith(".onnx"):
            check_references(contained_path(folder, entry.path), IntegrityError)


def _read_manifest(folder: Path) -> Manifest:
    file = contained_path(folder, BUNDLE_MARKER)
    if not file.is_file():
        raise IntegrityError(f"`{folder}` is not a bundle: it has no `{BUNDLE_MARKER}`")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"`{BUNDLE_MARKER}` of `{folder}` is larger than {MAX_MANIFEST_BYTES} bytes")
    return Manifest.from_text(file.read_bytes())


def _failed_gates(manifest: Manifest) -> str:
    failed = [gate for gate in manifest.gates if gate.passed is False]
    described = [
        f"{gate.variant} {gate.metric} is {gate.value:.6g}, required {gate.op} {gate.threshold:.6g}"
        for gate in failed
        if gate.value is not None
    ]
    return f": {'; '.join(described)}" if described else ""
