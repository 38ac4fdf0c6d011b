"""`edgeq bench`: speed of a bundle's variants, interleaved with something to compare with, load time and memory."""
