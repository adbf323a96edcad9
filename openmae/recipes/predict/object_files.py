"""What is written of the objects that were found in one image: COCO's annotations; where the image lies on the ground,
polygons, too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmae.console.words import encodable
from openmae.data.annotations.drawing import as_runs, compressed, decompressed, runs
from openmae.data.annotations.objects import Objects, Piece
from openmae.data.annotations.tracing import Area, areas
from openmae.data.formats.geotiff import Placed
from openmae.evaluate.detected import Detected
from openmae.files.whole import write_file
from openmae.recipes.predict.geojson import POLYGONS, collection, feature


def as_annotations(index: int, found: Detected) -> list[dict[str, Any]]:
    """Of the image of this index, the surest first; masks as run lengths in COCO's short form. Boxes are in hundredths
    of a pixel."""
    objects, listed = found.objects, list[dict[str, Any]]()
    for number, score in enumerate(found.scores.tolist()):
        left, top, right, bottom = objects.boxes[number].tolist()
        width, height = right - left, bottom - top
        one: dict[str, Any] = {"image_id": index + 1, "category_id": int(objects.classes[number]) + 1}
        if objects.pieces is not None:
            piece = objects.pieces[number]
            counts = compressed(as_runs(piece, objects.size))
            one |= {"segmentation": {"size": [*objects.size], "counts": counts}}
        one |= {"bbox": [round(value, 2) for value in (left, top, width, height)]}
        area = round(width * height, 2) if objects.pieces is None else int(objects.pieces[number].mask.sum())
        listed.append({**one, "area": area, "iscrowd": 0, "score": round(score, 6)})
    return listed


def from_annotations(listed: Sequence[dict[str, Any]], size: tuple[int, int], has_masks: bool) -> Detected:
    """The inverse of `as_annotations`, of an image of that size."""
    corners = np.array([one["bbox"] for one in listed], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    pieces = list[Piece]()
    for one in listed if has_masks else ():
        piece = runs(decompressed(one["segmentation"]["counts"]), size)
        assert piece is not None, "what has no pixels is not written"
        pieces.append(piece)
    classes = np.array([one["category_id"] - 1 for one in listed], np.int64)
    crowd = np.zeros(len(listed), np.bool_)
    objects = Objects(size, corners, classes, crowd, tuple(pieces) if has_masks else None)
    return Detected(objects, np.array([one["score"] for one in listed], np.float32))


def write_polygons(folder: Path, place: str, found: Detected, names: Sequence[str], where: Placed) -> None:
    """GeoJSON: of each object its areas, or its box where that is all that is known. Raises OSError."""
    objects, features = found.objects, []
    for number, score in enumerate(found.scores.tolist()):
        index = int(objects.classes[number])
        about = {"class": encodable(names[index]), "index": index, "score": round(score, 6)}
        if objects.pieces is None:
            own = [_box(objects.boxes[number].tolist())]
        else:
            own = _areas(objects.pieces[number])
            about["pixels"] = sum(area.pixels for area in own)
        features.append(feature(about, own, where))
    file = folder / POLYGONS / f"{place}.geojson"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(collection(features, where)).encode())


def _areas(piece: Piece) -> list[Area]:
    moved = np.array([piece.left, piece.top], np.float64)
    return [Area([ring + moved for ring in area.rings], area.pixels) for area in areas(piece.mask)]


def _box(box: Sequence[float]) -> Area:
    left, top, right, bottom = box
    ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], np.float64)
    return Area([ring], 0)
