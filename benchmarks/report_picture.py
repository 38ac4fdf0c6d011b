"""The picture of a report in README.md: a bundle's report.html in a headless Chromium, as a small PNG.

    python benchmarks/report_picture.py out/demo-report.html [docs/report.png]

The page is what `edgeq export --target android --report out/demo-report.html` wrote. A desktop's and a phone's view
stand beside each other; with 64 colours the file stays below 150 kB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from from_tests import support
from PIL import Image

DESKTOP, PHONE, HEIGHT = 1180, 360, 1000
GAP = 20
COLOURS = 64
LARGEST = 150_000


def main() -> None:
    page = Path(sys.argv[1])
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("docs/report.png")
    chromium = support("chromium")
    program = chromium.find_chromium()
    if program is None:
        sys.exit("needs a Chromium: apt-get install chromium")
    browser = chromium.Chromium(program)
    try:
        with TemporaryDirectory() as scratch:
            views = [view(browser, page, width, Path(scratch)) for width in (DESKTOP, PHONE)]
    finally:
        browser.close()
    beside(views).quantize(COLOURS).save(picture, optimize=True)
    size = picture.stat().st_size
    print(f"{picture}: {size} bytes")
    if size > LARGEST:
        sys.exit(f"larger than {LARGEST} bytes: lower COLOURS or HEIGHT")


def view(browser: Any, page: Path, width: int, scratch: Path) -> Image.Image:
    """The top of the page on a screen of that width."""
    path = scratch / f"{width}.png"
    browser.open(page, width, HEIGHT)
    browser.screenshot(path, HEIGHT)
    with Image.open(path) as image:
        return image.convert("RGB")


def beside(views: list[Image.Image]) -> Image.Image:
    """One next to the other, a gap between them."""
    whole = Image.new("RGB", (sum(one.width for one in views) + GAP * (len(views) - 1), HEIGHT), "white")
    left = 0
    for one in views:
        whole.paste(one, (left, 0))
        left += one.width + GAP
    return whole


if __name__ == "__main__":
    main()
