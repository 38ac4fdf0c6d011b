"""The original as its own library loads and runs it, from raw text.

Nothing here reads a tokenizer, a pooling or a head with edgeq's own rules: what edgeq does not read in a model's files
would otherwise be missing from the bundle and from what it is compared with alike. sentence-transformers is not needed
to export; where it is missing, what was compared says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import (
    check_complete,
    check_finite,
    check_weights,
    describe,
    key_mapping_of,
    quiet_transformers,
)
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.equivalence import PROBES, TOLERANCE, compare
from edgeq.exporters.library_config import CROSS_ENCODER, EMBEDDER
from edgeq.exporters.sentence import read_sentence_model
from edgeq.exporters.text_encoder import OUTPUTS
from edgeq.exporters.tokenizer import (
    follow_types,
    load_tokenizer,
    longest_text,
    tokenizer_notices,
    use_backend,
)
from edgeq.exporters.torch_onnx import quiet
from edgeq.samples import Sample, Text, TextPair
from edgeq.types import Array, Feeds, Outputs, Task, TensorSpec

if TYPE_CHECKING:
    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.processors.text import TextPreprocessor

SENTENCE_TRANSFORMERS = "sentence-transformers"

RunOne: TypeAlias = Callable[[Sample], Outputs]
"""One sample, alone and so without padding, to outputs `[1, ...]` by name."""

AUTO_CLASSES = {
    Task.FEATURE_EXTRACTION: "AutoModel",
    Task.SEQUENCE_CLASSIFICATION: "AutoModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "AutoModelForTokenClassification",
    Task.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    Task.FILL_MASK: "AutoModelForMaskedLM",
}
"""What `pipeline(task)` of transformers loads."""


@dataclass(frozen=True, slots=True)
class TextReference:
    """The original, from raw text.

    Attributes:
        name: what runs it, for people.
        run_one: the model.
        max_length: tokens it cuts a text to; None where nobody knows.
        is_library: whether its own library reads the text; otherwise edgeq's own reading of its files does.
        notices: what the name alone does not say.
    """

    name: str
    run_one: RunOne
    max_length: int | None = None
    is_library: bool = True
    notices: tuple[str, ...] = ()

    def run(self, samples: Sequence[Sample]) -> list[Outputs]:
        """Outputs of each sample, `[1, ...]` by name."""
        return [self.run_one(sample) for sample in samples]


def of_reference(
    preprocessor: TextPreprocessor,
    reference: Callable[[Feeds], Outputs],
    limit: int,
    name: str,
    notices: tuple[str, ...],
) -> TextReference:
    """A model on token ids that edgeq makes with the tokenizer and the settings of the model's own folder."""
    cut = preprocessor.fit(min(limit, preprocessor.max_length))
    return TextReference(
        f"{name}, on token ids that edgeq makes of its own files",
        lambda sample: reference(cut([sample])),
        cut.max_length,
        is_library=False,
        notices=notices,
    )


def open_library(facts: ModelFacts, limit: int | None = None) -> tuple[TextReference | None, str]:
    """What a folder is loaded with by its own library, or nothing and why.

    Args:
        facts: of the folder, for the task.
        limit: tokens to cut texts to where the library takes more.
    """
    sentence = read_sentence_model(facts.folder)
    task = facts.task
    assert task is not None
    whole = sentence if sentence is not None and sentence.serves(task) else None
    if whole is None:
        folder = sentence.transformer if sentence else facts.folder
        return _reranker(folder, _transformers(folder, task, limit)), ""
    kind = CROSS_ENCODER if whole.is_scorer else EMBEDDER
    if find_spec("sentence_transformers") is None:
        return None, f"{SENTENCE_TRANSFORMERS} is not installed: the original's own {kind} was not run"
    try:
        model = _load(facts.folder, whole.transformer, kind)
    except Exception as error:  # whatever the library trips over in a folder that it did not write
        return None, f"{SENTENCE_TRANSFORMERS} cannot load the original ({describe(error)})"
    notices = _follow_file(
        model.tokenizer, model[0].config, whole.transformer, lower_case=whole.library.lower_case
    )
    found = _predicting(model, limit) if whole.is_scorer else _encoding(model, limit)
    return replace(found, notices=notices), ""


def _reranker(folder: Path, found: TextReference) -> TextReference:
    """A model of one score is what `CrossEncoder` takes, on pairs; it has no `modules.json`, and needs none."""
    one_score = found.run_one(Text("a"))
    if (
        find_spec("sentence_transformers") is None
        or [*one_score] != ["logits"]
        or one_score["logits"].shape != (1, 1)
    ):
        return found

    @cache
    def predict() -> RunOne:
        model = _load(folder, folder, CROSS_ENCODER)
        _follow_file(model.tokenizer, model[0].config, folder, lower_case=False)
        return _predicting(model, found.max_length).run_one

    def run_one(sample: Sample) -> Outputs:
        return predict()(sample) if isinstance(sample, TextPair) else found.run_one(sample)

    return replace(found, name=f"{found.name}; pairs by {_by(CROSS_ENCODER)}", run_one=run_one)


def _by(kind: str) -> str:
    verb = {CROSS_ENCODER: "predict", EMBEDDER: "encode"}[kind]
    return f"{kind}.{verb} of {SENTENCE_TRANSFORMERS} {version(SENTENCE_TRANSFORMERS)}, from text"


def _named(folder: Path) -> dict[str, Any]:
    """How the library finds weights that a wrapper has put prefixes on."""
    mapping = key_mapping_of(folder)
    return {} if mapping is None else {"key_mapping": mapping}


def _load(folder: Path, transformer: Path, kind: str) -> Any:
    import torch

    with quiet_transformers(), quiet():
        import sentence_transformers

        return getattr(sentence_transformers, kind)(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32, **_named(transformer)},
        )


def _encoding(model: Any, limit: int | None) -> TextReference:
    model.max_seq_length = min(model.max_seq_length, limit or model.max_seq_length)

    def encode(sample: Sample) -> Outputs:
        found = model.encode([_listed(sample)], batch_size=1, show_progress_bar=False)
        return {"sentence_embedding": np.asarray(found)}

    return TextReference(_by(EMBEDDER), encode, model.max_seq_length)


def _predicting(model: Any, limit: int | None) -> TextReference:
    import torch

    model.max_seq_length = min(model.max_seq_length, limit or model.max_seq_length)

    def predict(sample: Sample) -> Outputs:
        if isinstance(sample, Text):
            # `predict` takes pairs only; what it does with one, without that check.
            with torch.inference_mode():
                scores = model(model.preprocess([sample.text]))["scores"].numpy()
        else:
            # The function that only scales scores is left out; the bundle gives what it is applied to.
            identity = torch.nn.Identity()
            scores = model.predict(
                [list(sample.texts)], batch_size=1, show_progress_bar=False, activation_fn=identity
            )
        return {"logits": np.asarray(scores).reshape(1, -1)}

    return TextReference(_by(CROSS_ENCODER), predict, model.max_seq_length)


def _listed(sample: Sample) -> Any:
    return sample.text if isinstance(sample, Text) else list(sample.texts)


def _transformers(folder: Path, task: Task, limit: int | None) -> TextReference:
    """The classes that `pipeline(task)` takes, called as it calls them."""
    import torch
    import transformers

    check_weights(folder)
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, info = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                weights_only=True,
                output_loading_info=True,
                **_named(folder),
            )
        except Exception as error:  # transformers raises many kinds; each one is a bad folder here
            raise ModelError(f"transformers cannot load `{folder}`: {describe(error)}") from error
    check_complete(info, folder, task)
    check_finite(model, folder)
    model.eval()
    notices = _follow_file(tokenizer, model.config, folder, lower_case=False)
    length = min(_own_limit(model, tokenizer), limit or _own_limit(model, tokenizer))

    def run_one(sample: Sample) -> Outputs:
        with torch.inference_mode():
            feeds = tokenizer(*sample.texts, truncation=True, max_length=length, return_tensors="pt")
            found = model(**feeds)
        return {name: getattr(found, name).numpy() for name in OUTPUTS[task]}

    name = f"{type(model).__name__} of transformers {version('transformers')}, from text"
    return TextReference(name, run_one, length, notices=notices)


def _own_limit(model: Any, tokenizer: Any) -> int:
    """Tokens that the model has positions for, at most those that its tokenizer gives."""
    return longest_text(tokenizer, ARCHITECTURES[model.config.model_type].positions(model.config), None)


def _follow_file(tokenizer: Any, config: Any, folder: Path, *, lower_case: bool) -> tuple[str, ...]:
    """Let the library run the folder's own tokenizer.json, where what it makes of the file is known to differ."""
    own = load_tokenizer(folder, lower_case=lower_case)
    notices = tokenizer_notices(own)
    if notices:
        use_backend(tokenizer, own.backend_tokenizer)
    if ARCHITECTURES[config.model_type].token_types(config) > 1:
        notices += follow_types(tokenizer, folder)
    return notices


def check_reading(
    facts: ModelFacts,
    preprocessor: TextPreprocessor,
    reference: Callable[[Feeds], Outputs],
    outputs: Sequence[TensorSpec],
) -> tuple[str, ...]:
    """Compare what edgeq reads in a folder with the folder's own library, from text.

    Returns:
        What people have to know: that the library is not there, or cannot run the folder.

    Raises:
        ModelError: they give different outputs.
    """
    found, why = open_library(facts, preprocessor.max_length)
    if found is None:
        return (f"{why}; the export is compared with the forward of transformers, on edgeq's own token ids",)
    assert facts.task is not None
    for sample in _probes(facts, PROBES):
        try:
            expected = found.run_one(sample)
        except Exception as error:  # a folder that its own library loads and cannot run
            return (f"{found.name}, fails on the original ({describe(error)}): it was not compared with",)
        feeds = preprocessor([sample])
        got = reference(feeds)
        for spec in outputs:
            _same_shape(found.name, sample, spec, expected[spec.name], got[spec.name])
        for difference in compare(tuple(outputs), expected, got, np.ones_like(feeds["input_ids"])):
            if not difference.relative <= TOLERANCE:
                raise ModelError(
                    f"edgeq reads the model otherwise than {found.name}: {difference.output} of "
                    f"{sample.to_json()!r:.60} is {difference.got:.6g}, expected {difference.expected:.6g}, a "
                    f"difference of {difference.relative:.2g} of the output's scale where {TOLERANCE:g} is allowed",
                    hint="please report this model; it must not be shipped",
                )
    return ()


def _probes(facts: ModelFacts, texts: Sequence[str]) -> Iterator[Sample]:
    """A few texts, or pairs where the model reads pairs."""
    sentence = read_sentence_model(facts.folder)
    is_scorer = sentence is not None and sentence.is_scorer and sentence.serves(facts.task)
    paired = facts.task is Task.QUESTION_ANSWERING or is_scorer
    for index, text in enumerate(texts[:4]):
        yield TextPair(text, texts[index + 1]) if paired else Text(text)
    if facts.task is Task.SEQUENCE_CLASSIFICATION:
        yield TextPair(texts[4], texts[3])


def _same_shape(name: str, sample: Sample, spec: TensorSpec, expected: Array, got: Array) -> None:
    if expected.shape != got.shape:
        raise ModelError(
            f"edgeq reads the model otherwise than {name}: {spec.name} of {sample.to_json()!r:.60} has shape "
            f"{list(got.shape)}, expected {list(expected.shape)}",
            hint="please report this model; it must not be shipped",
        )
