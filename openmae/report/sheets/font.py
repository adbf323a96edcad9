"""The font that sheets are lettered in."""

from functools import cache
from pathlib import Path

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont


@cache
def wide_font(size: int, bold: bool = False) -> FreeTypeFont:
    """matplotlib's own, which knows Latin, Greek and Cyrillic."""
    from matplotlib import get_data_path  # here: half a training's sheets do without it

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)
