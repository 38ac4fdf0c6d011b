"""The inputs of text models, by their names: what processors make, exporters declare and golden cases record."""

from __future__ import annotations

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_TYPE_IDS = "token_type_ids"
POSITION_IDS = "position_ids"
KNOWN_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
OPTIONAL_INPUTS = (TOKEN_TYPE_IDS, POSITION_IDS)
"""Of these an app may pass zeros when a graph no longer asks for them."""
