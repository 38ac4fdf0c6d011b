"""The GGUF target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeq.families.rope import check_rope
from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.quantize import formats
from edgeq.quantize.recipes import BUILT_IN, load_recipe
from edgeq.quantize.recipes.schema import RecipeExport, StaticOptions, file_type_recipe
from edgeq.runtime.generation.footprint import measure_gguf_bytes
from edgeq.runtime.generation.llama_cpp import is_installed
from edgeq.targets.gguf.activations import roundings
from edgeq.targets.gguf.file_types import FILE_TYPES, RECIPES, FileType
from edgeq.targets.gguf.read_back import StoredParameters
from edgeq.targets.gguf.session import GgufSession
from edgeq.targets.gguf.tensors import family_of, ignored_window, place_tensors, plan_tensors
from edgeq.targets.gguf.writer import write_gguf
from edgeq.targets.target import CheckpointInput, Lowered, LoweringOptions, Session, VariantSpec
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import FloatArray, Precision, Role, TensorSpec

if TYPE_CHECKING:
    from edgeq.quantize.recipes import Recipe
    from edgeq.runtime.adapter import HasSignature

RUNTIME = "llama.cpp"
NO_COUNTERPART = "no GGUF file type stands for it"


@dataclass(frozen=True, slots=True)
class GgufTarget:
    """llama.cpp, and what is built on it, on desktops and phones."""

    name: str = "gguf"
    title: str = "GGUF files for llama.cpp and what is built on it (language models)"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.INT4, Precision.FP16, Precision.FP32)
    own_runtimes: tuple[str, ...] = (RUNTIME,)
    option_names: tuple[str, ...] = ()
    made_from: Literal["graph", "checkpoint"] = "checkpoint"
    cache_bytes_per_value: int = 2

    @property
    def own_precisions(self) -> Mapping[str, str]:
        """File types; where a recipe has the same name, it names both."""
        return {name: kind.summary for name, kind in FILE_TYPES.items()}

    def variants(self, recipe: Recipe) -> tuple[VariantSpec, ...]:
        """One file of the type that stands for the recipe."""
        name = file_type_of(recipe)
        refusal = None if name else f"{NO_COUNTERPART} (recipe `{recipe.name}`)"
        return (
            VariantSpec(
                f"gguf-{name or recipe.name}", "gguf", recipe.name, RUNTIME, "CPU", "any", refusal=refusal
            ),
        )

    def check(self, recipe: Recipe, options: LoweringOptions) -> None:
        """Every length is taken."""

    def check_family(self, model_type: str, positions: str) -> None:
        """Whether files of a family can say how it computes.

        Raises:
            UnsupportedError: they cannot.
        """
        family_of(model_type)
        check_rope({"rope_parameters": {"rope_type": positions}})

    def stored_bytes(
        self, spec: VariantSpec, config: Mapping[str, Any], matrices: Mapping[str, tuple[int, ...]]
    ) -> int:
        """Bytes of these matrices in a file of this type."""
        name = spec.id.removeprefix("gguf-")
        return sum(tensor.nbytes for tensor in place_tensors(matrices, config, name))

    def write(self, spec: VariantSpec, source: CheckpointInput, folder: Path) -> Lowered:
        """Write the file, `NAME-TYPE.gguf`."""
        name = spec.id.removeprefix("gguf-")
        path = folder / f"{source.name}-{FILE_TYPES[name].label}.gguf"
        notes = write_gguf(source, name, path)
        window = ignored_window(source.config)
        if window is not None:
            notes.append(
                f"llama.cpp lets every token see the whole text, the original {window} tokens: they differ beyond that"
            )
        cache = replace(source.settings.cache, bytes_per_value=self.cache_bytes_per_value)
        return Lowered(
            path,
            *_signature(source.settings.vocabulary),
            opset=None,
            requirements={"kv_cache_bytes_per_token": cache.bytes_per_token},
            notes=tuple(notes),
        )

    def read_back(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, FloatArray]:
        """The parameters that a file stands for."""
        return StoredParameters(model, config, plan_tensors(parameters, config, "f32"))

    def formats(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, str]:
        """Ggml's types of the parameters that are blocks of codes."""
        return StoredParameters(model, config, plan_tensors(parameters, config, "f32")).formats

    def is_calibrated(self, spec: VariantSpec) -> bool:
        """Whether weights become codes."""
        return _kind(spec).is_quantized

    def recipe_of(self, spec: VariantSpec) -> Recipe:
        """The file type alone: its mix is llama.cpp's, not that of a recipe of the same name."""
        name = spec.id.removeprefix("gguf-")
        return file_type_recipe(name, f"GGUF file type {FILE_TYPES[name].label}: {FILE_TYPES[name].summary}")

    def precision_of(self, spec: VariantSpec) -> Precision:
        """The family of the file type."""
        return _kind(spec).precision

    def open(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> Session:
        """llama.cpp, where llama-cpp-python is installed."""
        return GgufSession(model)

    def can_execute(self) -> bool:
        """Whether llama-cpp-python is installed."""
        return is_installed()

    def ram_bytes(self, model: Path, context: int) -> int:
        """Growth of memory to load a file, read 128 tokens and write 8."""
        return measure_gguf_bytes(model, context)

    def rounding(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, Callable[[FloatArray], FloatArray]]:
        """What llama.cpp does to the inputs of each weight, by its type in the file."""
        return roundings(model, plan_tensors(parameters, config, "f32"))


def file_type_of(recipe: Recipe) -> str | None:
    """The file type that a recipe asks for: its own name's, or the one that stands for a built-in recipe.

    A recipe of that name with other rules has none: GGUF files are mixed by llama.cpp's rules.
    """
    if isinstance(recipe.default.storage, formats.FileType):
        return recipe.name if recipe.name in FILE_TYPES else None
    if recipe.name not in BUILT_IN:
        return None
    plain = replace(recipe, export=RecipeExport(), static_int8=StaticOptions())
    return RECIPES.get(recipe.name) if plain == load_recipe(recipe.name) else None


def _kind(spec: VariantSpec) -> FileType:
    return FILE_TYPES[spec.id.removeprefix("gguf-")]


def _signature(vocabulary: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return (
        (TensorSpec(INPUT_IDS, "int64", (BATCH, SEQUENCE), Role.TOKEN_IDS),),
        (TensorSpec("logits", "float32", (BATCH, SEQUENCE, vocabulary), Role.LOGITS),),
    )


TARGET = GgufTarget()
