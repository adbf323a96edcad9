"""The fixed panel through training, as a section of a run's page: with a script one picture at a time, by a slider."""

import io
import re
from pathlib import Path

from PIL import Image

from openmae.data.formats.header import check_size
from openmae.errors import BrokenImage
from openmae.report.page.html import data_uri, details, escaped, section

MOST_EARLIER = 12
_WIDE = 960  # px of a page that a picture takes
_FINE, _COARSE = 92, 75  # JPEG qualities, of the last picture and of those before
_DAMAGED = (OSError, SyntaxError, ValueError, BrokenImage, Image.DecompressionBombError)


def pictures_section(folder: Path) -> str:
    """The last picture, and folded those before; "" where there are none."""
    files = in_order(folder)
    earlier = files[:-1]
    if len(earlier) > MOST_EARLIER:  # evenly spread, the first among them
        earlier = [earlier[place * len(earlier) // MOST_EARLIER] for place in range(MOST_EARLIER)]
    shown = "".join(figure(file, place, earlier=True) for place, file in enumerate(earlier))
    left_out = f", {len(earlier)} of {len(files) - 1}" if len(earlier) < len(files) - 1 else ""
    last = "".join(figure(file, len(earlier)) for file in files[-1:])
    folded = details(f"Earlier in training{left_out}", shown)
    return section("Reconstructions", f'<div class="slides">{last}{folded}</div>' if last or folded else "")


def in_order(folder: Path) -> list[Path]:
    """The pictures that a run has left, the first step's first."""
    return sorted(folder.glob("*.png"), key=lambda file: (_step(file), file.name))


def figure(file: Path, place: int = 0, said: str = "", *, earlier: bool = False) -> str:
    """The picture with its step, after what is `said` of it; "" where it is damaged. It stays a PNG where a JPEG would
    take more bytes; an earlier one is no larger than it is shown."""
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            check_size(height, width, 4)
            image.load()
            picture, buffer = image.convert("RGB"), io.BytesIO()
            if earlier:
                picture.thumbnail((_WIDE, _WIDE * height))
                picture.save(buffer, "JPEG", quality=_COARSE)
            else:
                picture.save(buffer, "JPEG", quality=_FINE, subsampling=0)  # patches keep sharp edges
    except _DAMAGED:
        return ""
    smaller = buffer.getvalue()
    uri = data_uri(smaller, "image/jpeg") if len(smaller) < len(data) else data_uri(data, "image/png")
    step = _step(file)
    title = f"{said}step {step:,}" if step >= 0 else f"{said}{file.stem}"
    return (
        f'<figure data-place="{place}"><figcaption>{escaped(title)}</figcaption><img class="card" width="{width}" '
        f'height="{height}" alt="Masked images, reconstructions and originals, {escaped(title)}" src="{uri}"></figure>'
    )


def _step(file: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", file.stem)
    return int(match[1]) if match else -1
