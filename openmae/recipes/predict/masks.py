"""What a segmenter finds in images: a mask of each, the index of a class at every pixel."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from openmae.console.words import in_a_line, several
from openmae.data.annotations.annotations import BACKGROUND
from openmae.data.formats.geotiff import Placed
from openmae.data.tiles.large import AnyImage, LargeImage
from openmae.data.views.outlined import IGNORED
from openmae.errors import UserError
from openmae.evaluate.tiled import TILES, strips
from openmae.files.tables import Columns
from openmae.files.whole import write_file
from openmae.recipes.in_parts.about import SAME_IMAGES, Kind
from openmae.recipes.in_parts.folder import Part, PartsFolder, parts_folder
from openmae.recipes.predict.folder import SHEET, Finder, InSheet, is_placed
from openmae.recipes.predict.mask_files import as_png, mask_name, write_classes, write_mask
from openmae.recipes.predict.settings import TABLE, Predict
from openmae.report.sheets.outlines import Shown, outline_sheet, step_of

CLASSES = "classes.csv"
_MOST_ROWS = 20  # of the table of classes; of more, the largest


class Masks(Finder):
    """In masks/ and classes.csv; numbers are shares of the pixels."""

    kind = Kind(
        command="predict",
        holds="masks",
        under_way="a prediction",
        model="segmenter",
        others={
            "segmenter": "another model, or the same at another step",
            "statistics": "other input statistics",
            "data_fingerprint": SAME_IMAGES,
        },
        flags=("precision",),
    )
    doing = "segmenting"
    gives = "a mask for each image"
    numbers = "share"

    @classmethod
    def check(cls, settings: Predict) -> dict[str, Any]:
        """As `Finder.check`."""
        if settings.threshold is not None:
            raise UserError(f"--threshold is for scores, and this model gives {cls.gives}", "leave it out")
        return {}

    @property
    def side(self) -> int | None:
        """As `Finder.side`."""
        return max(self.asked.loaded.segmenter.encoder.img_size)

    def find(
        self, index: int, image: AnyImage, where: Placed | None, say: Callable[[float], None]
    ) -> NDArray[np.float64]:
        """As `Finder.find`."""
        asked, size = self.asked, (image.shape[0], image.shape[1])
        counts = np.zeros(len(asked.names), np.int64)
        small = list[NDArray[np.uint8]]()

        def rows() -> Iterator[NDArray[np.uint8]]:
            """(r, W) the class of each pixel, from top to bottom."""
            for top, part in self._segmented(index, image):
                counts[:] += np.bincount(part.ravel(), minlength=len(counts))
                if isinstance(image, LargeImage):
                    step = step_of(size)
                    small.append(part[-top % step :: step, ::step])
                yield part
                if top + len(part) < size[0]:
                    say((top + len(part)) / size[0])

        write_mask(asked.out, asked.places[index], rows(), size, asked.names, where)
        if small:
            write_file(self._small(index), as_png(np.concatenate(small)))
        return counts / math.prod(size)

    def _segmented(self, index: int, image: AnyImage) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(top, (r, W)), strip by strip."""
        asked, loaded = self.asked, self.asked.loaded
        tiles, precision = asked.settings.batch_size or TILES, asked.settings.precision
        for strip in strips(loaded.segmenter, loaded.statistics, image, asked.device, tiles, precision):
            self.check_finite(index, strip.scores)
            yield strip.top, strip.classes

    def _small(self, index: int) -> Path:
        """Of a large image's mask what a sheet shows, as long as the work is under way."""
        return parts_folder(self.asked.out / TABLE) / f"{index:012d}.png"

    def keep(self, parts: PartsFolder) -> None:
        """As `Finder.keep`: masks are written already."""

    def cells(self, part: Part) -> tuple[Columns, dict[str, list[Any]]]:
        """As `Finder.cells`: where the mask is."""
        places = self.asked.places
        names = [
            mask_name(places[index], on_ground)
            for index, on_ground in zip(part.indices.tolist(), is_placed(part), strict=True)
        ]
        return {"mask": "text"}, {"mask": names}

    def finish(self, finished: list[Part]) -> None:
        """As `Finder.finish`."""
        write_classes(self.asked.out / CLASSES, self.asked.names)

    def sheet(self, shown: list[InSheet], finished: list[Part]) -> Image.Image:
        """As `Finder.sheet`."""
        asked, names = self.asked, self.asked.names
        rows = []
        for one in shown:
            shares = one.told.copy()
            shares[0] = -1 if names[0] == BACKGROUND and len(names) > 1 else shares[0]
            most = int(shares.argmax())
            image, file = one.image, asked.out / mask_name(asked.places[one.index], one.is_placed)
            if isinstance(image, LargeImage):
                step = step_of((image.shape[0], image.shape[1]))
                image, file = image[::step, ::step], self._small(one.index)
            with Image.open(file) as mask:
                note = f"{shares[most]:.0%} {names[most]}"
                rows.append(Shown(image, None, np.asarray(mask), asked.source.shown(one.index), note))
        return outline_sheet(rows, names, IGNORED, names[0] == BACKGROUND)

    def show(self, told: NDArray[np.float32], console: Console) -> None:
        """As `Finder.show`: how much of all there is of each class."""
        names = self.asked.names
        table = Table("class", "images", "of their pixels")
        order = np.argsort(-told.mean(0), kind="stable").tolist()
        for number in order[:_MOST_ROWS]:
            has = told[:, number] > 0
            mean = float(told[has, number].mean()) if has.any() else 0.0
            table.add_row(in_a_line(names[number]), f"{int(has.sum()):,}", f"{mean:.1%}")
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
        if len(names) > _MOST_ROWS:
            console.print(f"The {_MOST_ROWS} largest of {len(names):,}.")
        console.print(
            f"{self.asked.out}: {several(len(told), 'mask')} in masks/, colours in {CLASSES}, shares of each class in "
            f"{TABLE}; look at {SHEET}",
            highlight=False,
            soft_wrap=True,
        )
