"""The inputs of text models, by their names."""

from __future__ import annotations

from edgeq.graph.component import SEQUENCE, Padding

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_TYPE_IDS = "token_type_ids"
POSITION_IDS = "position_ids"
KNOWN_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
OPTIONAL_INPUTS = (TOKEN_TYPE_IDS, POSITION_IDS)
"""Of these an app may pass zeros when a graph no longer asks for them."""

TEXT_PADDING = Padding(SEQUENCE, ATTENTION_MASK)
"""Texts are filled up with the padding token, where the mask is zero."""
