"""Which images a classifier takes for another class, kept so that a page can show those of any pair."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.console.words import drawable
from openmae.evaluate.judge import Judged
from openmae.evaluate.metrics import confused_pairs
from openmae.report.sheets.gallery import view_tiles

MOST_CLASSES = 30  # whose names and counts can be read in one table
_IMAGES, _OF_A_PAIR, _SIDE = 150, (2, 6), 128  # kept at most; of each pair; px: 3 kB each


def mistakes(judged: Judged) -> dict[str, Any]:
    """What mistakes.json holds: of the pairs that are most often confused the images that the model is surest of, and
    of no more than MOST_CLASSES classes all counts.

    {"names": [class], "counts": [[of a class (row) taken for a class]], "pairs": [{"label", "predicted", "times",
    "images": [{"name", "confidence", "jpeg"}]}]}; names and counts are empty for more classes.
    """
    right, (predicted, confidence) = judged.right, judged.predicted()
    labels = right.values.astype(np.int64)
    occurring = np.unique(np.concatenate([labels, predicted]))
    found: dict[str, Any] = {"names": [], "counts": [], "pairs": []}
    if len(occurring) <= MOST_CLASSES:
        places = np.stack([np.searchsorted(occurring, labels), np.searchsorted(occurring, predicted)])
        counts = np.zeros((len(occurring), len(occurring)), np.int64)
        np.add.at(counts, tuple(places), 1)
        found |= {"names": [drawable(right.names[number]) for number in occurring], "counts": counts.tolist()}
    chosen: list[tuple[dict[str, Any], NDArray[np.int64]]] = []
    pairs, room = confused_pairs(labels, predicted), _IMAGES
    least, most = _OF_A_PAIR
    each = min(most, max(least, _IMAGES // max(1, len(pairs))))
    for pair in pairs:
        rows = np.flatnonzero((labels == pair.label) & (predicted == pair.predicted))
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: min(each, room)]
        names = {"label": drawable(right.names[pair.label]), "predicted": drawable(right.names[pair.predicted])}
        chosen.append(({**names, "times": pair.times}, rows))
        room -= len(rows)
        if not room:
            break
    rows = np.concatenate([rows for _, rows in chosen] or [np.empty(0, np.int64)])
    tiles = iter(view_tiles(judged.images, judged.indices[rows].tolist()))
    for pair_said, of in chosen:
        images = [
            {
                "name": drawable(judged.source.name(int(judged.indices[row]))),
                "confidence": round(float(confidence[row]), 4),
                "jpeg": _jpeg(next(tiles)),
            }
            for row in of.tolist()
        ]
        found["pairs"].append({**pair_said, "images": images})
    return found


def _jpeg(tile: Image.Image) -> str:
    buffer = io.BytesIO()
    tile = tile.convert("RGB")
    tile.thumbnail((_SIDE, _SIDE))
    tile.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
