"""Pictures as a page takes them, inside its addresses."""

import base64
import io

from PIL import Image

from openmae.recipes.demo.viewing import Viewed
from openmae.report.sheets.pictures import as_shown, tiles
from openmae.web.server import Answer

THUMBNAIL = 128  # pixels of its longer side, at most


def address_of(picture: Image.Image) -> str:
    """A PNG, as the address of a picture, every pixel as it is."""
    return f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"


def picture_of(viewed: Viewed) -> Image.Image:
    """What the model sees, as it is shown everywhere."""
    (picture,) = tiles(as_shown(viewed.statistics, viewed.image))
    return picture


def thumbnail(viewed: Viewed) -> Answer:
    """A small one."""
    picture = picture_of(viewed)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return Answer(_png(picture), "image/png")


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
