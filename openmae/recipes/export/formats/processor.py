"""The image processor of a folder for transformers: our evaluation view and input statistics, as far as it can."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.data.bundled import bundled_pictures
from openmae.data.views.crop import centred_view
from openmae.data.views.statistics import WHITE
from openmae.recipes.export import views
from openmae.recipes.export.check import IMAGES
from openmae.weights import Loaded

FILE = "preprocessor_config.json"
FEW = 3.0  # levels of 255 between two views of a photograph, on average, that are worth no word
_GUESSED = (1, 3, 4)  # numbers of channels at which transformers finds out itself on which axis they lie


def processor_config(loaded: Loaded) -> dict[str, Any]:
    """What `preprocessor_config.json` says.

    Its class resizes uint8 images with the same kernel of torchvision's as openmae.data.views, to the same numbers.
    """
    (height, width), channels = loaded.encoder.img_size, loaded.encoder.in_chans
    pixels = loaded.statistics.pixels
    cover = dict(zip(("height", "width"), views.sides(loaded), strict=True))
    config: dict[str, Any] = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": channels == 3 and pixels.depth == "uint8",
        "do_resize": True,
        "size": {"shortest_edge": cover["height"]} if height == width else cover,
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": pixels.depth != "float32",
        "do_normalize": True,
        "image_mean": [*loaded.statistics.mean],
        "image_std": [*loaded.statistics.std],
    }
    if pixels.depth != "float32":
        config["rescale_factor"] = 1 / WHITE[pixels.depth]
    if channels not in _GUESSED:
        config["input_data_format"] = "channels_last"
    return config


def write_processor(loaded: Loaded, out: Path, transformers: Any) -> list[str]:
    """Writes it; gives sentences on where what it does is not what openmae does."""
    (out / FILE).write_text(json.dumps(processor_config(loaded), indent=1))
    notes = _notes(loaded)
    pixels = loaded.statistics.pixels
    if pixels.in_chans == 3 and pixels.depth == "uint8" and not loaded.info.get(views.KEY):
        levels = levels_apart(loaded, transformers.AutoImageProcessor.from_pretrained(out))
        if levels > FEW:
            notes.append(
                f"Its view of a photograph differs from openmae's by up to {levels:.1f} of 255 grey levels on average: "
                "where the middle begins between two pixels it takes the first, as torchvision, timm and openmae do not"
            )
    return notes


def levels_apart(loaded: Loaded, processor: Any) -> float:
    """The mean difference, in levels of 255, between its view and ours of a photograph; of several, the largest."""
    height, width = loaded.encoder.img_size
    found = []
    for _, picture in islice(bundled_pictures(), IMAGES):
        ours = centred_view(picture, (height, width)).transpose(2, 0, 1)
        theirs = processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
        scaled = loaded.statistics.denormalize(theirs)[0].numpy()
        found.append(float(np.abs(scaled * WHITE["uint8"] - ours).mean()))
    return max(found)


def _notes(loaded: Loaded) -> list[str]:
    (height, width), channels = loaded.encoder.img_size, loaded.encoder.in_chans
    pixels = loaded.statistics.pixels
    whole = loaded.info.get(views.KEY)
    advice = "export with --data of those" if whole else "call it with do_resize=False for those"
    notes = views.note(loaded, "transformers' image processor", advice)
    if height != width:
        notes.append(f"It stretches images that are no {height} x {width} in shape, where openmae cuts them")
    if pixels.bands is not None:
        notes.append(f"It chooses no bands: give it bands {', '.join(map(str, pixels.bands))} alone, in this order")
    elif channels == 1:
        notes.append("It does not make colours grey: give it images of 1 channel")
    if channels not in _GUESSED:
        notes.append(f"It takes arrays of shape (height, width, {channels}), and no other order of the axes")
    if pixels.depth == "uint16":
        notes.append(
            'It needs 16-bit images as float32 arrays, image.astype("float32"): of others it makes black specks where '
            "a bright edge overshoots"
        )
    return notes
