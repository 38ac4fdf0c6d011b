"""The options of an export, each said once.

The flags of `edgeq export`, the keywords of `edgeq.export` and the keys of `edgeq.toml` are made of these fields, and
`ExportRequest` inherits them. The command line imports this to write its help: nothing heavy may come with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.pipeline.flags import flag, flags_of

if TYPE_CHECKING:
    from edgeq.comparison import GateRequest
    from edgeq.quantize.recipes import Recipe


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export may be asked for, as users give it. Adding an option: a field here, and its use."""

    model: str | Path | None = field(
        default=None,
        metadata=flag(
            "Hugging Face folder or Hub id, sentence-transformers folder, .onnx or .gguf file; "
            "the sample model if left out.",
            is_argument=True,
        ),
    )
    _: KW_ONLY
    target: str | Sequence[str] = field(
        default="android",
        metadata=flag("Platform; repeat for several. See `edgeq targets`.", short="-t", reads=list[str]),
    )
    precision: str | None = field(
        default=None,
        metadata=flag(
            "A recipe's name: int8, int4, fp16, q4_k_m ... (see `edgeq recipes`), or a file type of the target."
        ),
    )
    recipe: str | Path | Recipe | None = field(
        default=None, metadata=flag("A recipe file; a bundle's recipe.yaml repeats its export.", reads=Path)
    )
    calib: str | Path | None = field(
        default=None,
        metadata=flag("Calibration data: .txt .jsonl .csv .tsv .parquet .npz, a folder, or hf:NAME."),
    )
    calib_column: str | None = field(
        default=None, metadata=flag("Column of a table, or A,B for pairs of texts.")
    )
    calib_samples: int | None = field(
        default=None,
        metadata=flag("Samples to calibrate with; 256, or 1024 with GPTQ or AWQ.", reads=int, least=8),
    )
    seq_len: int | str | Sequence[int] | None = field(
        default=None,
        metadata=flag(
            "Tokens of variants with a static shape, several for Core ML: 32,128,256; a language model's context.",
            in_file=(int, list),
        ),
    )
    ios: int | None = field(
        default=None,
        metadata=flag("Oldest iOS for Core ML: 16, 17 or 18; the precision sets the least.", reads=int),
    )
    task: str | None = field(default=None, metadata=flag("Override the task the config names."))
    revision: str | None = field(default=None, metadata=flag("Commit, tag or branch on the Hub."))
    gates: str | Sequence[str | GateRequest] = field(
        default=(),
        metadata=flag(
            "METRIC=X, the worst that passes; beyond it the command exits with 3.",
            name="gate",
            reads=list[str],
        ),
    )
    output: str | Path | None = field(
        default=None,
        metadata=flag(
            "The bundle's folder; with several targets, the folder that holds them.", short="-o", reads=Path
        ),
    )
    variants: str | Sequence[str] = field(
        default=(), metadata=flag("Keep only these variants: cpu, nnapi.", in_file=(str, list))
    )
    archive: bool = field(default=False, metadata=flag("Also write NAME.edgeq, one file.", reads=bool))
    slim: bool = field(
        default=False,
        metadata=flag(
            "Without golden cases, report and plan, as `edgeq pack` leaves them out for an app.", reads=bool
        ),
    )
    force: bool = field(default=False, metadata=flag("Replace an existing bundle.", reads=bool))
    sensitivity: bool = field(
        default=False, metadata=flag("Measure each quantized layer alone, for `edgeq explain`.", reads=bool)
    )
    requantize: bool = field(
        default=False,
        metadata=flag("Quantize a checkpoint again that is quantized already (GGUF, GPTQ, AWQ).", reads=bool),
    )
    seed: int | None = field(
        default=None, metadata=flag("Seed of every random choice (0).", reads=int, least=0)
    )


def export_options(given: Mapping[str, Any]) -> ExportOptions:
    """The options of what was given, by the names of flags."""
    flags = flags_of(ExportOptions).items()
    return ExportOptions(**{name: given[item.name] for name, item in flags if item.name in given})
