"""By how much an image file is turned when it is decoded."""

from openmae.data.formats.pillow import orientation, pillow_image
from openmae.data.signatures import ENOUGH, format_of

_PILLOW = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}


def orientation_of(data: bytes) -> int:
    """1 to 8, as EXIF numbers them; 1 of files that nothing turns. Raises BrokenImage, or what Pillow raises."""
    form = format_of(data[:ENOUGH])
    if form not in _PILLOW:
        return 1
    image = pillow_image(data, _PILLOW[form])
    if form == "tiff":
        return int(image.getexif().get(274, 1) or 1)
    return orientation(data, image)
