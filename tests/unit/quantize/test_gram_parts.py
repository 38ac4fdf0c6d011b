import pytest

from edgeq.quantize import gram_parts
from edgeq.quantize.gram_parts import in_parts


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([4, 6, 1], [[4, 6], [1]]),
        ([0, 0, 10, 0, 1], [[0, 0, 10, 0], [1]]),
        ([99, 1, 9, 99], [[99], [1, 9], [99]]),
    ],
)
def test_what_fits_is_calibrated_together(sizes, parts, monkeypatch):
    monkeypatch.setattr(gram_parts, "GRAM_BYTES", 10)
    assert list(in_parts(sizes, int)) == parts
