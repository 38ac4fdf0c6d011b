"""`edgeq tune`: the smallest recipe within a budget, searched layer by layer."""
