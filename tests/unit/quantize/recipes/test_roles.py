"""Roles from module paths: every family's spelling, written out."""

from __future__ import annotations

import pytest

from edgeq.quantize.recipes.roles import KNOWN_ROLES, ROLES, layer_index_of, module_path, role_of

PATHS = {
    # BERT, ELECTRA, RoBERTa
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings": "embedding.position",
    "embeddings.token_type_embeddings": "embedding.token_type",
    "encoder.layer.3.attention.self.query": "attention.q",
    "encoder.layer.3.attention.self.key": "attention.k",
    "encoder.layer.3.attention.self.value": "attention.v",
    "encoder.layer.3.attention.output.dense": "attention.o",
    "encoder.layer.3.intermediate.dense": "ffn.up",
    "encoder.layer.3.output.dense": "ffn.down",
    "pooler.dense": "task",
    "classifier": "task",
    "classifier.out_proj": "task",
    "qa_outputs": "task",
    "cls.predictions.decoder": "head",
    "generator_lm_head": "head",
    "lm_head.decoder": "head",
    # DistilBERT
    "transformer.layer.2.attention.q_lin": "attention.q",
    "transformer.layer.2.attention.k_lin": "attention.k",
    "transformer.layer.2.attention.v_lin": "attention.v",
    "transformer.layer.2.attention.out_lin": "attention.o",
    "transformer.layer.2.ffn.lin1": "ffn.up",
    "transformer.layer.2.ffn.lin2": "ffn.down",
    "vocab_projector": "head",
    # MPNet
    "encoder.layer.11.attention.attn.q": "attention.q",
    "encoder.layer.11.attention.attn.o": "attention.o",
    "encoder.layer.11.intermediate.dense": "ffn.up",
    # ALBERT
    "encoder.albert_layer_groups.0.albert_layers.0.attention.query": "attention.q",
    "encoder.albert_layer_groups.0.albert_layers.0.attention.dense": "attention.o",
    "encoder.albert_layer_groups.0.albert_layers.0.ffn": "ffn.up",
    "encoder.albert_layer_groups.0.albert_layers.0.ffn_output": "ffn.down",
    "encoder.embedding_hidden_mapping_in": "other",
    # DeBERTa
    "encoder.layer.0.attention.self.query_proj": "attention.q",
    "encoder.layer.0.attention.self.value_proj": "attention.v",
    "encoder.layer.0.attention.self.in_proj": "attention.qkv",
    "encoder.rel_embeddings": "embedding.position",
    # ModernBERT
    "embeddings.tok_embeddings": "embedding",
    "layers.21.attn.Wqkv": "attention.qkv",
    "layers.21.attn.Wo": "attention.o",
    "layers.21.mlp.Wi": "ffn.gate_up",
    "layers.21.mlp.Wo": "ffn.down",
    "decoder": "head",
    # Llama, Qwen, Gemma
    "model.embed_tokens": "embedding",
    "model.layers.10.self_attn.q_proj": "attention.q",
    "model.layers.10.self_attn.k_proj": "attention.k",
    "model.layers.10.self_attn.v_proj": "attention.v",
    "model.layers.10.self_attn.o_proj": "attention.o",
    "model.layers.10.mlp.gate_proj": "ffn.gate",
    "model.layers.10.mlp.up_proj": "ffn.up",
    "model.layers.10.mlp.down_proj": "ffn.down",
    "lm_head": "head",
    # Phi
    "model.layers.4.self_attn.qkv_proj": "attention.qkv",
    "model.layers.4.mlp.gate_up_proj": "ffn.gate_up",
    "model.layers.4.self_attn.dense": "attention.o",
    "model.layers.4.mlp.fc1": "ffn.up",
    "model.layers.4.mlp.fc2": "ffn.down",
    # GPT-2
    "transformer.wte": "embedding",
    "transformer.wpe": "embedding.position",
    "transformer.h.7.attn.c_attn": "attention.qkv",
    "transformer.h.7.attn.c_proj": "attention.o",
    "transformer.h.7.mlp.c_fc": "ffn.up",
    "transformer.h.7.mlp.c_proj": "ffn.down",
    # Nodes of other exporters
    "/model/layers.5/attn/q_proj/MatMul": "attention.q",
    "/model/layers.5/mlp/down_proj/MatMul": "ffn.down",
    "/lm_head/MatMul": "head",
    "model.layers.5.mlp.up_proj.weight": "ffn.up",
    # Not quantizable layers of their own
    "node_MatMul_46": "other",
    "encoder.layer.0.output.LayerNorm": "other",
}


@pytest.mark.parametrize(("path", "role"), PATHS.items())
def test_role(path, role):
    assert role_of(path) == role


def test_only_known_roles_and_every_one_is_reached():
    assert set(PATHS.values()) == set(KNOWN_ROLES)
    assert all(role_of(path) in KNOWN_ROLES for path in PATHS)
    literal = {role for _, role in ROLES if "\\" not in role}
    assert literal <= set(KNOWN_ROLES)


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("encoder.layer.3.output.dense", 3),
        ("transformer.h.7.attn.c_attn", 7),
        ("/model/layers.12/mlp/up_proj/MatMul", 12),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn", 0),
        ("blk.4.attn_q", 4),
        ("lm_head", None),
        ("embeddings.word_embeddings", None),
    ],
)
def test_layer_index(path, index):
    assert layer_index_of(path) == index


def test_shared_layers_have_the_role_of_the_first():
    assert module_path("encoder.layer.0.attention.self.query@1") == "encoder.layer.0.attention.self.query"
