"""What lies near what among embedded images: tables on the console, lists as .csv, picture sheets."""

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmae.console.progress import counting
from openmae.console.words import encodable, in_a_line
from openmae.data.formats.decode import decode, open_image
from openmae.data.loading.in_order import CentredImages
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.copies import LEAST, Picture, agreement, picture
from openmae.evaluate.indexed import Near
from openmae.evaluate.neighbours import mean_similarity, near_duplicates, nearest
from openmae.files.spreadsheets import cells
from openmae.files.whole import write_file
from openmae.randomness import some
from openmae.recipes.embed.file import read_vectors
from openmae.recipes.embed.labels import LabelTexts
from openmae.recipes.embed.vectors import Vectors
from openmae.report.sheets.layout import ROWS_IN_ONE_BLOCK
from openmae.report.sheets.neighbours import CaptionedImage, captioned_sheet
from openmae.report.sheets.pictures import save_picture

MOST_PAIRS = 100_000  # in the list of duplicates
MOST_COMPARED = 20_000  # pairs whose pixels are compared, a few ms each
_COPIES = 32  # of an image, that an index looks for
_ASKED = 16384  # of many images, whose nearest tell what is usual
_USUAL = 5  # an image is nearest to copies and then to others
_IN_MEMORY = 512  # pictures of them, 0.4 MB each
_OWN = 4  # names that the query may have among the images, by links
_ROWS_SHOWN = 10  # on the console
_QUERIES_PICTURED, _NEAREST_PICTURED = ROWS_IN_ONE_BLOCK, 10
_PAIRS_PICTURED = 12
_OUTLIERS_PICTURED, _OUTLIERS_A_ROW = 24, 6
_SIMILARITY = (
    "The figures are cosine similarities of the features, 1 for the same; the images are shown as the model sees them, "
    "cut to its size."
)


class Findings:
    """Looks at the features in `out`, and writes beside it."""

    def __init__(
        self,
        out: Path,
        images: CentredImages,
        labels: LabelTexts,
        left_out: Sequence[int],
        vectors: Vectors,
        device: torch.device,
        console: Console,
    ) -> None:
        self.out, self.images, self.labels, self.device, self.console = out, images, labels, device, console
        self.indices = np.delete(np.arange(len(images)), left_out)  # of the images, by row of the file
        self.vectors = vectors
        self.near: Near | None = None

    def index(self, k: int) -> None:
        """Finds most of the k nearest to each at once, and of copies so many as tell, for the lists below."""
        if len(self.vectors) > 1:
            self.near = self.vectors.near(max(k, _COPIES), self.console)

    def beside(self, what: str, suffix: str) -> Path:
        """The file that something found is written to."""
        return self.out.with_name(f"{self.out.stem}-{what}{suffix}")

    def search(
        self,
        queries: Sequence[Path],
        pixels: Sequence[NDArray[Any]],
        vectors: NDArray[np.float32],
        k: int,
        picture: Path,
    ) -> None:
        """Shows the k nearest to each query (Q, D), of which files and pixels (H, W, C) are given; a query that is one
        of the images is not near to itself. Raises OSError."""
        similarity, rows = nearest(torch.tensor(vectors), self._chunks(), k + _OWN)
        sheet: list[list[CaptionedImage]] = []
        for query, image, values, found in zip(queries, pixels, similarity.clamp(-1, 1), rows, strict=True):
            is_query = _Itself(self.images.source, query)
            all_near = list(zip(values.tolist(), found.tolist(), strict=True))
            others = [(value, row) for value, row in all_near if not is_query(int(self.indices[row]))]
            told = _told([value for value, _ in others[:k]])
            near = [(value, row) for value, (_, row) in zip(told, others[:k], strict=True)]
            table = self._table("similarity", "image")
            for value, row in near:
                table.add_row(value, *self._named(row))
            without = ", itself left out" if len(others) < len(all_near) else ""
            self.console.print(f"\nNearest to {in_a_line(str(query))}{without}:")
            self.console.print(table)
            tiles = (self._tile(row, value) for value, row in near[:_NEAREST_PICTURED])
            sheet.append([CaptionedImage(image, query.name, ""), *tiles])
        titles = ["query", *map(str, range(1, max(map(len, sheet))))]
        save_picture(captioned_sheet(titles, sheet[:_QUERIES_PICTURED], f"Nearest first. {_SIMILARITY}"), picture)
        more = f" (of the first {_QUERIES_PICTURED})" if len(queries) > _QUERIES_PICTURED else ""
        self.console.print(f"Picture{more}: {picture}")

    def duplicates(self, threshold: float | None) -> None:
        """Lists pairs of at least this similarity; None: those that are copies by their pixels too. Raises OSError."""
        found = self._copies() if threshold is None else self._similar(threshold, MOST_PAIRS)
        columns, listed, sheet = found.columns, self.beside("duplicates", ".csv"), self.beside("duplicates", ".png")
        rows = ((*(f"{v:.6f}" for v in own), *self._row(a), *self._row(b)) for own, a, b in found.rows)
        _write_csv(listed, (*columns, "path", "label", "path_2", "label_2"), rows)
        if not found.rows:
            sheet.unlink(missing_ok=True)
            self.console.print(f"\nNo two images {found.nothing}")
            return
        self.console.print(f"\n{_pairs(found.total)} {found.said}{', the closest first' * (found.total > 1)}:")
        table = self._table("  ".join(columns), "image", "image")
        for own, a, b in found.rows[:_ROWS_SHOWN]:
            table.add_row("  ".join(f"{value:.4f}" for value in own), *self._named(a), *self._named(b))
        self.console.print(table)
        pictured = [(f"{own[0]:.4f}", a, b) for own, a, b in found.rows[:_PAIRS_PICTURED]]
        tiles = [[self._tile(a, value), self._tile(b, value)] for value, a, b in pictured]
        footer = f"The {len(tiles)} closest of {_pairs(found.total)}. {_SIMILARITY}"
        save_picture(captioned_sheet(("", ""), tiles, footer), sheet)
        which = "All" if found.total == len(found.rows) else f"The {len(found.rows):,} closest"
        self.console.print(f"{which} are in {listed}; picture: {sheet}")

    def _similar(self, threshold: float, most: int) -> "_Found":
        """The pairs of at least this similarity, the closest of them at most."""
        if self.near is not None:
            pairs = self.near.pairs(threshold, most)
        else:
            with counting("comparing", len(self.vectors), self.console) as say:
                pairs = near_duplicates(self.vectors.all, threshold, most, self.device, say)
        of = zip(pairs.similarity.tolist(), pairs.first.tolist(), pairs.second.tolist(), strict=True)
        rows = [((value,), a, b) for value, a, b in of]
        alike = f"a similarity of {threshold:g} or more"
        return _Found(("similarity",), rows, pairs.total, f"of {alike}", f"have {alike}")

    def _copies(self) -> "_Found":
        """Those of the pairs that are more alike than is usual which are copies by their pixels too."""
        usual = self._usual()
        alike = self._similar(usual, MOST_COMPARED)
        agreements = self._agreements([(a, b) for _, a, b in alike.rows])
        self._say_compared(usual, len(agreements), alike.total)
        both = zip(alike.rows, agreements, strict=True)
        rows = [((*own, value), a, b) for (own, a, b), (value, _) in both if value >= LEAST]
        if smooth := sum(is_smooth for _, is_smooth in agreements):
            self.console.print(
                f"{_pairs(smooth)} agree{'s' * (smooth == 1)} by a smooth gradient alone, as of a sky: nothing tells "
                "whether that is a copy, and none is listed",
                soft_wrap=True,
            )
        said = f"whose pixels agree to {LEAST:g} or more"
        return _Found(("similarity", "pixels"), rows, len(rows), said, "are copies of each other")

    def _usual(self) -> float:
        """What the similarity of an image to its fifth nearest usually is, the median of them, or of some thousands:
        copies are more similar, whatever the encoder finds alike, and a few copies of each image do not move it."""
        count = len(self.vectors)
        if count < 2:
            return 1.0
        if self.near is not None:
            return float(np.median(self.near.similarity[:, :_USUAL][:, -1]))
        asked = np.sort(some(0, "few", count, _ASKED))
        queries = torch.tensor(self.vectors.all[asked])
        similarity, _ = nearest(queries, self._chunks(), _USUAL + 1, self.device)  # itself is the first
        return float(similarity[:, -1].median())

    def _agreements(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[float, bool]]:
        """How far the pixels of each pair agree, as `agreement` says it; -1 of what cannot be read any more."""
        found = [(-1.0, False)] * len(pairs)

        @lru_cache(_IN_MEMORY)
        def pictured(row: int) -> Picture | None:
            try:
                opened = open_image(self.images.source.read(int(self.indices[row])), self.images.pixels.reading)
                return picture(decode(opened, self.images.pixels))
            except (OSError, BrokenImage):
                return None

        with counting("comparing pixels", len(pairs), self.console, items="pairs") as say:
            for done, number in enumerate(sorted(range(len(pairs)), key=lambda number: pairs[number]), 1):
                one, other = map(pictured, pairs[number])
                if one is not None and other is not None:
                    found[number] = agreement(one, other)
                say(done)
        return found

    def _say_compared(self, threshold: float, compared: int, alike: int) -> None:
        were = "was" if alike == 1 else "were"
        most = f"; the {compared:,} closest of them were" if compared < alike else f" {were}"
        self.console.print(
            f"\n{_pairs(alike)} as similar as an image usually is to its fifth nearest ({threshold:.4f} or more){most} "
            "compared by their pixels",
            soft_wrap=True,
        )

    def outliers(self, k: int) -> None:
        """Lists all images, from the least to the most similar to the k nearest. Raises UserError, OSError."""
        if len(self.vectors) < 2:
            raise UserError("one image has nothing to differ from", "--outliers needs two or more")
        k = min(k, len(self.vectors) - 1)
        if self.near is not None:
            means = self.near.mean_similarity(k)
        else:
            with counting("comparing", len(self.vectors), self.console) as say:
                means = mean_similarity(self.vectors.all, k, self.device, say)
        order = np.argsort(means, kind="stable").tolist()
        listed, picture = self.beside("outliers", ".csv"), self.beside("outliers", ".png")
        header = ("mean_similarity", "path", "label")
        _write_csv(listed, header, ((f"{means[row]:.6f}", *self._row(row)) for row in order))
        first = order[: max(_ROWS_SHOWN, _OUTLIERS_PICTURED)]
        median, *told = _told([float(np.median(means)), *means[first].tolist()])
        shown = list(zip(first, told, strict=True))
        self.console.print(f"\nLeast similar to the {k} nearest (the median image: {median}):")
        table = self._table("mean similarity", "image")
        for row, value in shown[:_ROWS_SHOWN]:
            table.add_row(value, *self._named(row))
        self.console.print(table)
        tiles = [self._tile(row, value) for row, value in shown[:_OUTLIERS_PICTURED]]
        sheet = [tiles[at : at + _OUTLIERS_A_ROW] for at in range(0, len(tiles), _OUTLIERS_A_ROW)]
        footer = f"Least similar to their {k} nearest images, of which each figure is the mean. {_SIMILARITY}"
        save_picture(captioned_sheet([""] * len(sheet[0]), sheet, footer), picture)
        self.console.print(f"All, the strangest first, are in {listed}; picture: {picture}")

    def _chunks(self) -> Iterator[Tensor]:
        return map(torch.tensor, read_vectors(self.out))

    def _table(self, figure: str, *images: str) -> Table:
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
        table.add_column(figure, justify="right")
        for image in images:
            table.add_column(image, overflow="fold")
            if self.labels.classes:
                table.add_column("label", overflow="fold")
        return table

    def _name(self, row: int) -> str:
        return encodable(self.images.source.name(int(self.indices[row])))

    def _label(self, row: int) -> str:
        return self.labels[int(self.indices[row])] or ""

    def _row(self, row: int) -> tuple[str, str]:
        return self._name(row), self._label(row)

    def _named(self, row: int) -> tuple[str, ...]:
        name = in_a_line(self._name(row))
        return (name, self._label(row)) if self.labels.classes else (name,)

    def _tile(self, row: int, similarity: str) -> CaptionedImage:
        source, index = self.images.source, int(self.indices[row])
        try:
            pixels = self.images.view(source.read(index))
        except (OSError, BrokenImage):  # it was readable when it was embedded
            pixels = None
        label = self._label(row)
        return CaptionedImage(pixels, f"{similarity} {label}".strip(), "/".join(Path(self._name(row)).parts[-2:]))


@dataclass(frozen=True)
class _Found:
    """Pairs of images. rows: (figures as `columns` names them, the similarity first; image; image), of `total` the
    closest. said: what such pairs are; nothing: what no two images are or have."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[tuple[float, ...], int, int]]
    total: int
    said: str
    nothing: str


class _Itself:
    """Tells which of the source's images is the query: the same file; where images are no files, the same bytes under
    the same name."""

    def __init__(self, source: Source, query: Path) -> None:
        self.source, self.query = source, query

    def __call__(self, index: int) -> bool:
        """Whether image `index` is."""
        try:
            if (file := self.source.file(index)) is not None:
                return self.query.samefile(file)
            is_called_so = self.source.name(index).rpartition("/")[2] == self.query.name
            return is_called_so and self.source.read(index) == self.query.read_bytes()
        except (OSError, BrokenImage):
            return False


def _told(similarities: Sequence[float]) -> list[str]:
    """In four decimals, or in six where most are above 0.999, as of an encoder that has learnt little."""
    decimals = 6 if similarities and statistics.median(similarities) > 0.999 else 4
    return [f"{value:.{decimals}f}" for value in similarities]


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)}"


def _write_csv(file: Path, header: Sequence[str], rows: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(map(cells, rows))
    write_file(file, text.getvalue().encode())
