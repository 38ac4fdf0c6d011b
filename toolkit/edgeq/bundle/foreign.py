"""What a path is that is no bundle, and how one is made of it: people hold models, and every command is given them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import IntegrityError
from edgeq.files import ARCHIVE_SUFFIX, BUNDLE_MARKER

GGUF_MAGIC, ZIP_MAGIC = b"GGUF", b"PK"
EXPORT = "make a bundle of it first: edgeq export {path} --target {target}"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of model that is given where a bundle is wanted.

    Attributes:
        title: with its article.
        target: one that `edgeq export` makes a bundle of it for; None where it takes no such file.
        advice: said instead of the command then.
    """

    title: str
    target: str | None = None
    advice: str = ""


GGUF = Foreign("a GGUF file", "android")
NO_GGUF = Foreign(
    "named .gguf and no GGUF file", None, "download it again: its first bytes are those of another file"
)
FOLDER = Foreign("a model's folder", "android")
WEIGHTS = Foreign("a file of weights", None, "give `edgeq export` the folder that has its config.json")
BY_SUFFIX = {
    ".gguf": GGUF,
    ".onnx": Foreign("an ONNX file", "android"),
    ".safetensors": WEIGHTS,
    ".bin": WEIGHTS,
    ".pt": WEIGHTS,
    ".pth": WEIGHTS,
    ".mlpackage": Foreign("a Core ML package", None, "give `edgeq export` the original model"),
    ".tflite": Foreign("a LiteRT file", None, "give `edgeq export` the original model"),
}


def foreign_kind(path: Path) -> Foreign | None:
    """What a file or folder is, by its first bytes, its name, or what lies in it; None for what may be a bundle."""
    if path.is_dir():
        is_model = (path / "config.json").is_file() and not (path / BUNDLE_MARKER).exists()
        return BY_SUFFIX.get(path.suffix) or (FOLDER if is_model else None)
    if not path.is_file():  # reading a pipe could wait for ever
        return None
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == GGUF_MAGIC:
        return GGUF
    if path.suffix == ".gguf":
        return NO_GGUF
    # A zip may be a bundle under any name.
    if magic.startswith(ZIP_MAGIC) or path.suffix == ARCHIVE_SUFFIX:
        return None
    return BY_SUFFIX.get(path.suffix)


def refuse_foreign(path: Path) -> None:
    """Say what a path is, where that can be told, and how a bundle is made of it.

    Raises:
        IntegrityError: it is a model of another kind.
    """
    kind = foreign_kind(path)
    if kind is not None:
        hint = EXPORT.format(path=path, target=kind.target) if kind.target else kind.advice
        raise IntegrityError(f"`{path}` is {kind.title}, not a bundle", hint=hint)
