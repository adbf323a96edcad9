"""What a detector finds in images: boxes and outlines of objects, in one file as COCO has them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from openmae.console.words import encodable, in_a_line, several
from openmae.data.formats.geotiff import Placed
from openmae.data.tiles.large import AnyImage
from openmae.errors import UserError
from openmae.evaluate.average_precision import SURE
from openmae.evaluate.detected import detected
from openmae.files.whole import WholeFile, write_file
from openmae.recipes.in_parts.about import SAME_IMAGES, Kind
from openmae.recipes.in_parts.folder import Part, PartsFolder, parts_folder
from openmae.recipes.predict.folder import SHEET, Asked, Finder, InSheet, sizes_of
from openmae.recipes.predict.object_files import as_annotations, from_annotations, write_polygons
from openmae.recipes.predict.settings import TABLE, Predict
from openmae.report.sheets.objects import FoundObjects, found_sheet

OBJECTS = "objects.json"
_HARDLY = 0.05  # the least score that the model gives
_MOST_ROWS = 20  # of the table of classes; of more, those that have most objects


class Objects(Finder):
    """In objects.json; numbers are counts of objects."""

    kind = Kind(
        command="predict",
        holds="objects",
        under_way="a prediction",
        model="detector",
        others={
            "detector": "another model, or the same at another step",
            "statistics": "other input statistics",
            "data_fingerprint": SAME_IMAGES,
        },
        flags=("threshold", "precision"),
    )
    doing = "detecting"
    gives = "the objects of each image"
    numbers = "count"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._held: list[dict[str, Any]] = []

    @classmethod
    def check(cls, settings: Predict) -> dict[str, Any]:
        """As `Finder.check`."""
        threshold = SURE if settings.threshold is None else settings.threshold
        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold is {threshold:g}", "give a score from 0 to 1")
        return {"threshold": threshold}

    @property
    def side(self) -> int | None:
        """As `Finder.side`."""
        return self.asked.loaded.detector.side

    def find(
        self, index: int, image: AnyImage, where: Placed | None, say: Callable[[float], None]
    ) -> NDArray[np.float64]:
        """As `Finder.find`. Holds the annotations."""
        asked, loaded, settings = self.asked, self.asked.loaded, self.asked.settings
        found = detected(
            loaded.detector,
            loaded.statistics,
            image,
            asked.device,
            precision=settings.precision,
            at_once=settings.batch_size,
            least=self.check(settings)["threshold"],
            say=say,
        )
        if found.objects.pieces is not None:
            found = found.take(np.array([piece.mask.any() for piece in found.objects.pieces], np.bool_))
        self._held += as_annotations(index, found)
        if where is not None:
            write_polygons(asked.out, asked.places[index], found, asked.names, where)
        return np.bincount(found.objects.classes, minlength=len(asked.names)).astype(np.float64)

    def keep(self, parts: PartsFolder) -> None:
        """As `Finder.keep`."""
        write_file(parts.folder / f"{parts.stop:012d}.json", json.dumps(self._held).encode())
        self._held = []

    def finish(self, finished: list[Part]) -> None:
        """As `Finder.finish`: all annotations, in COCO's form."""
        asked, file = self.asked, self.asked.out / OBJECTS
        categories = [{"id": number, "name": encodable(name)} for number, name in enumerate(asked.names, 1)]
        images = [
            {"id": index + 1, "file_name": encodable(asked.source.name(index)), "height": height, "width": width}
            for part in finished
            for index, (height, width) in zip(part.indices.tolist(), sizes_of(part), strict=True)
        ]
        with WholeFile(file, aside=parts_folder(asked.out / TABLE) / OBJECTS) as whole:
            first = f'{{"categories": {json.dumps(categories)},\n"images": {json.dumps(images)},\n"annotations": ['
            whole.file.write(first.encode())
            for number, one in enumerate(_annotations(finished), 1):
                line = json.dumps({"id": number, **one})
                whole.file.write(f"{',' if number > 1 else ''}\n{line}".encode())
            whole.file.write(b"\n]}\n")
            whole.close()
            whole.finish()

    def sheet(self, shown: list[InSheet], finished: list[Part]) -> Image.Image:
        """As `Finder.sheet`."""
        asked, rows = self.asked, []
        own: dict[int, list[dict[str, Any]]] = {one.index + 1: [] for one in shown}
        for annotation in _annotations([part for part in finished if part.start < max(own)]):
            if annotation["image_id"] in own:
                own[annotation["image_id"]].append(annotation)
        for one in shown:
            height, width = one.image.shape[:2]
            found = from_annotations(own[one.index + 1], (height, width), asked.loaded.detector.has_masks)
            note = several(len(found.scores), "object")
            rows.append(FoundObjects(one.image, found.objects, found.scores, asked.source.shown(one.index), note))
        return found_sheet(rows, asked.names)

    def show(self, told: NDArray[np.float32], console: Console) -> None:
        """As `Finder.show`: how many there are of each class."""
        names, counts = self.asked.names, told.sum(0)
        table = Table("class", "objects", "in images")
        for number in np.argsort(-counts, kind="stable").tolist()[:_MOST_ROWS]:
            row = (f"{int(counts[number]):,}", f"{int((told[:, number] > 0).sum()):,}")
            table.add_row(in_a_line(names[number]), *row)
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
        if len(names) > _MOST_ROWS:
            console.print(f"The {_MOST_ROWS} that are found most of {len(names):,}.")
        threshold = self.check(self.asked.settings)["threshold"]
        console.print(
            f"{self.asked.out}: {several(int(counts.sum()), 'object')} with a score of {threshold:g} or more in "
            f"{OBJECTS}, counts of each class in {TABLE}; look at {SHEET}",
            highlight=False,
            soft_wrap=True,
        )
        if not counts.sum() and threshold > _HARDLY:
            console.print(
                f"The model is so sure of nothing here; --threshold {_HARDLY:g} in another folder tells of what it is "
                "less sure of. openmae evaluate says how good it is.",
                style="yellow",
                soft_wrap=True,
            )


def _annotations(finished: list[Part]) -> Iterator[dict[str, Any]]:
    for part in finished:
        yield from json.loads(part.file.with_suffix(".json").read_bytes())
