"""What a package says about itself, from what is known of the model."""

from __future__ import annotations

from edgeq.targets.coreml.decisions import PackageInfo
from edgeq.targets.coreml.package import swift_class_name
from edgeq.targets.target import LoweringInput, VariantSpec
from edgeq.types import Role, TensorSpec
from edgeq.version import __version__

_MEANINGS = {
    Role.TOKEN_IDS: "token ids, padded on the right",
    Role.ATTENTION_MASK: "1 for tokens, 0 for padding",
    Role.TOKEN_TYPE_IDS: "segment of each token",
    Role.POSITION_IDS: "position of each token",
    Role.SENTENCE_EMBEDDING: "one vector per text",
    Role.LAST_HIDDEN_STATE: "one vector per token",
    Role.LOGITS: "scores before softmax",
    Role.START_LOGITS: "scores of each token to start the answer",
    Role.END_LOGITS: "scores of each token to end the answer",
}


def package_info(source: LoweringInput, spec: VariantSpec) -> PackageInfo:
    """Names, licence, labels and edgeq's own keys."""
    about = source.about
    inputs, outputs = _described(source.canonical.inputs), _described(source.canonical.outputs)
    keys = {"edgeq.version": __version__, "edgeq.recipe": spec.precision}
    if about is None:
        return PackageInfo(inputs=inputs, outputs=outputs, user_defined=keys)
    name = about.model.rstrip("/").rsplit("/", 1)[-1]
    return PackageInfo(
        name=swift_class_name(name),
        description=f"{name}: {about.architecture}, {about.task}, {spec.precision}",
        author=about.model.split("/", 1)[0] if about.model.count("/") == 1 else "",
        license=about.license or "",
        inputs=inputs,
        outputs=outputs,
        labels=about.labels,
        user_defined={**keys, "edgeq.model": about.model, "edgeq.task": str(about.task)},
    )


def _described(specs: tuple[TensorSpec, ...]) -> dict[str, str]:
    return {spec.name: _MEANINGS[spec.role] for spec in specs if spec.role in _MEANINGS}
