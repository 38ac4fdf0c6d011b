"""What models read, one file per kind of sample: what is drawn and hashed, recorded, and made into feeds.

`sample.py` says what each offers; a kind is a line in `KINDS`. Inside edgeq all samples are typed; programs may give
plain values, which `as_samples` takes at the edge. Ready tensors of an `.npz` are no samples: they are one array per
input, which is checked, cut and batched as a whole.
"""

from edgeq.samples.kinds import KINDS, SampleLike, as_sample, as_samples, kinds_in_words
from edgeq.samples.sample import Sample
from edgeq.samples.text import Text, TextPair

__all__ = [
    "KINDS",
    "Sample",
    "SampleLike",
    "Text",
    "TextPair",
    "as_sample",
    "as_samples",
    "kinds_in_words",
]
