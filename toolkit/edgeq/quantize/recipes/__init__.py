"""Recipes: which layer gets which bits, as readable data."""
