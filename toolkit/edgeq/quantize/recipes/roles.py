"""Which part of a transformer a layer is, from its module path."""

from __future__ import annotations

import re

from edgeq.families import FAMILIES

SPELLINGS: tuple[tuple[str, str], ...] = (
    # The first pattern found in the path decides; families are named where only they use a spelling.
    # Embeddings.
    (r"(token_type_embeddings|embeddings_token_type)$", "embedding.token_type"),
    (r"(position_embeddings|embed_positions|rel_embeddings)$", "embedding.position"),
    (r"(word_embeddings|tok_embeddings|token_embd)$", "embedding"),
    # Fused projections: DeBERTa v1, ModernBERT.
    (r"(attention\.self\.in_proj|attn\.Wqkv)$", "attention.qkv"),
    (r"mlp\.Wi$", "ffn.gate_up"),
    # Attention: BERT, RoBERTa, ELECTRA, ALBERT, DeBERTa v2; DistilBERT; MPNet; ModernBERT, Phi.
    (r"attention\.(self\.)?query(_proj)?$", "attention.q"),
    (r"attention\.(self\.)?key(_proj)?$", "attention.k"),
    (r"attention\.(self\.)?value(_proj)?$", "attention.v"),
    (r"attention\.(output\.)?dense$", "attention.o"),
    (r"attention\.q_lin$", "attention.q"),
    (r"attention\.k_lin$", "attention.k"),
    (r"attention\.v_lin$", "attention.v"),
    (r"attention\.out_lin$", "attention.o"),
    (r"attention\.attn\.([qkvo])$", r"attention.\1"),
    (r"attn\.(Wo|dense|out_proj)$", "attention.o"),
    # Feed-forward: ModernBERT; Phi; DistilBERT; ALBERT; BERT.
    (r"mlp\.(Wo|fc2)$", "ffn.down"),
    (r"mlp\.fc1$", "ffn.up"),
    (r"ffn\.lin1$", "ffn.up"),
    (r"ffn\.lin2$", "ffn.down"),
    (r"albert_layers\.\d+\.ffn$", "ffn.up"),
    (r"albert_layers\.\d+\.ffn_output$", "ffn.down"),
    (r"layer\.\d+\.intermediate\.dense$", "ffn.up"),
    (r"layer\.\d+\.output\.dense$", "ffn.down"),
    # Heads: masked language models, and older spellings of others.
    (r"(lm_head\.decoder|predictions\.decoder|vocab_projector|generator_lm_head|embed_out)$", "head"),
    (r"^decoder$", "head"),
    # What sits between a pooled vector and a task's answer.
    (r"(pooler(\.dense)?|pre_classifier|classifier(\.\w+)?|score|qa_outputs)$", "task"),
)
"""Of encoders, and of decoders that have no file in `edgeq.families`."""
ROLES: tuple[tuple[str, str], ...] = (
    *dict.fromkeys(
        (rf"{re.escape(end)}$", role) for family in FAMILIES.values() for end, role in family.roles.items()
    ),
    *SPELLINGS,
)
"""`(pattern, role)`: searched in a module path without its `.weight`."""

KNOWN_ROLES: tuple[str, ...] = (
    "embedding",
    "embedding.position",
    "embedding.token_type",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.qkv",
    "attention.o",
    "ffn.gate",
    "ffn.up",
    "ffn.gate_up",
    "ffn.down",
    "head",
    "task",
    "other",
)
"""Every role there is; `other` is what no pattern finds."""

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|blk|albert_layer_groups)\.(\d+)(?:\.|$)")


def module_path(name: str) -> str:
    """A node, initializer or parameter name as a module path: `/model/layers.0/mlp/up_proj/MatMul` too."""
    path = name.strip("/").replace("/", ".")
    path = re.sub(r"@\d+$", "", path)
    return re.sub(r"\.(weight|MatMul|Gemm|Gather)$", "", path)


def role_of(name: str) -> str:
    """The role of the layer of this name, `other` where no pattern knows it."""
    path = module_path(name)
    for pattern, role in ROLES:
        match = re.search(pattern, path)
        if match:
            return match.expand(role)
    return "other"


def layer_index_of(name: str) -> int | None:
    """The number of the transformer layer in a module path, None outside of any."""
    match = _LAYER.search(module_path(name))
    return int(match[1]) if match else None
