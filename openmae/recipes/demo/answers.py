"""What the page asks of a model, and what it is told, as JSON."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from openmae.console.words import drawable
from openmae.data.formats.apart import suspected
from openmae.data.formats.reading import Reading
from openmae.errors import UserError, of_user
from openmae.evaluate.attention import attention_of
from openmae.evaluate.occlusion import said_of, scores_occluded, windows
from openmae.heads import Answering
from openmae.masking import MASKS, Masking
from openmae.model import MaskedAutoencoder
from openmae.randomness import generator
from openmae.recipes.demo.about import MOST_CLASSES, MOST_WINDOWS, about
from openmae.recipes.demo.others import Neighbours, Others
from openmae.recipes.demo.pictures import address_of, picture_of, thumbnail
from openmae.recipes.demo.viewing import Shelf, Viewed, view
from openmae.report.sheets.pictures import PatchStats, fill, footer, glyphs, stretched, tiles
from openmae.targets import HOG
from openmae.web.server import Answer, Request, Routes
from openmae.weights import Loaded


class Answers:
    """A model, and the images that it is asked about."""

    def __init__(
        self,
        loaded: Loaded,
        asked: Reading,
        device: torch.device,
        samples: Others,
        neighbours: Neighbours | None = None,
    ) -> None:
        loaded.model.to(device).eval()
        self.loaded, self.asked, self.device = loaded, asked, device
        self.samples, self.neighbours = samples, neighbours
        self.shelf = Shelf()

    @property
    def routes(self) -> Routes:
        """All that can be asked."""
        told: dict[tuple[str, str], Callable[[Request], dict[str, Any]]] = {
            ("GET", "about"): lambda _: self.about(),
            ("GET", "alive"): lambda _: {},
            ("POST", "open"): self._open,
            ("POST", "sample"): lambda asked: self._opened(self.samples.view(_whole(asked, "number"))),
            ("POST", "neighbour"): lambda asked: self._opened(self._neighbours.others.view(_whole(asked, "number"))),
            ("GET", "mask"): self._mask,
            ("POST", "fill"): self._fill,
            ("POST", "attention"): self._attention,
            ("POST", "says"): self._says,
            ("POST", "occlude"): self._occlude,
            ("POST", "nearest"): self._nearest,
        }
        pictures: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "sample.png"): lambda asked: thumbnail(self.samples.view(_whole(asked, "number"))),
            ("GET", "neighbour.png"): lambda asked: thumbnail(self._neighbours.others.view(_whole(asked, "number"))),
        }
        return {where: _as_json(make) for where, make in told.items()} | pictures

    def about(self) -> dict[str, Any]:
        """What the page can show."""
        return about(self.loaded, self.samples, self.neighbours)

    # ------------------------------------------------------------ images and masks

    def _open(self, asked: Request) -> dict[str, Any]:
        """An image of the user's own, decoded by a process of its own: a fault in a decoder does not end the page."""
        with suspected():
            return self._opened(view(self.loaded, self.asked, drawable(asked.query.get("name", "image")), asked.body))

    def _opened(self, viewed: Viewed) -> dict[str, Any]:
        return {
            "image": self.shelf.put(viewed),
            "name": viewed.name,
            "notes": viewed.notes,
            "picture": address_of(picture_of(viewed)),
        }

    def _mask(self, asked: Request) -> dict[str, Any]:
        """The patches that hide, as in training; of seed S those of the first image of `openmae reconstruct --seed
        S`."""
        masking = self._masking(asked.query.get("mask", "random"))
        draws = generator(_whole(asked, "seed"), "panel", index=0)
        grid = self.loaded.encoder.grid
        try:
            visible, _ = masking.draw(draws, grid, float(asked.query["ratio"]))
        except ValueError as error:
            raise UserError(of_user(error).what, "choose a ratio further from 0 and 1") from error
        return {"hidden": np.setdiff1d(np.arange(int(np.prod(grid))), visible).tolist()}

    def _masking(self, name: str) -> Masking:
        """The model's own, in its units, with this mask and a ratio that stays. Raises UserError for one unknown."""
        if name not in MASKS:
            raise UserError(f"there is no mask '{name}'", f"choose one of {', '.join(MASKS)}")
        model = self.loaded.model
        own = model.masking if isinstance(model, MaskedAutoencoder) else Masking()
        return replace(own, mask=name, mask_schedule="constant", mask_ratio_end=None)

    # ------------------------------------------------------------ what the model makes of one

    def _fill(self, asked: Request) -> dict[str, Any]:
        """The hidden patches as the model predicts them."""
        started = time.perf_counter()
        values, model = asked.json(), self.loaded.autoencoder
        viewed = self.shelf[values["image"]]
        stats = _stats(values.get("patch_stats", "true"))
        visible = self._left(values["hidden"])
        found = fill(model, viewed.statistics, viewed.image, visible, stats)
        shown: dict[str, Any] = {}
        if found.predicted is not None:
            shown["predicted"] = address_of(tiles(found.predicted)[0])
        if isinstance(model.target, HOG):
            shown |= {
                name: address_of(column.tiles[0])
                for name, column in zip(("predicted", "true"), glyphs(model, found), strict=True)
            }
        scaled = viewed.statistics.denormalize(viewed.normalised)
        return {
            **shown,
            "hidden": found.output.queries[0].tolist(),
            "errors": _finite(found.errors[0]),
            "error": _finite(found.errors.mean(dim=1))[0],
            "caption": footer(model, stats, stretched(scaled, viewed.image.dtype)),
            "seconds": time.perf_counter() - started,
        }

    def _left(self, hidden: Sequence[int]) -> Tensor:
        """(1, V) the patches that stay visible. Raises UserError where none does, or all do."""
        left = self._shown(hidden)
        if not left.any() or left.all():
            raise UserError(
                "all patches are hidden" if not left.any() else "no patch is hidden",
                "some have to be visible, and some hidden",
            )
        return torch.from_numpy(np.flatnonzero(left))[None]

    def _shown(self, hidden: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(N,) True = visible. Raises ValueError for numbers that are no patches."""
        left = np.ones(int(np.prod(self.loaded.encoder.grid)), bool)
        numbers = np.array(hidden, np.int64).reshape(-1)
        if ((numbers < 0) | (numbers >= len(left))).any():
            raise ValueError(f"patches are numbered from 0 to {len(left) - 1}")
        left[numbers] = False
        return left

    def _attention(self, asked: Request) -> dict[str, Any]:
        values, encoder = asked.json(), self.loaded.encoder
        image = self.shelf[values["image"]].normalised.to(self.device)
        found = attention_of(encoder, image, int(values["patch"]), values.get("layer")).mean(dim=1)[0]
        classes = encoder.class_tokens
        return {"weights": _finite(found[classes:]), "classes": float(found[:classes].sum())}

    @property
    def _answering(self) -> Answering:
        return self.loaded.classifier

    def _says(self, asked: Request) -> dict[str, Any]:
        """What a fine-tuned model says of an image of which the hidden patches are covered."""
        values = asked.json()
        self._shown(values["hidden"])
        image = self.shelf[values["image"]].normalised[0].to(self.device)
        (said,) = said_of(scores_occluded(self._answering, image, [values["hidden"]]), self.loaded.info["task"])
        most = said.sort(descending=True, stable=True).indices[:MOST_CLASSES].tolist()
        names = self.loaded.info["class_names"]
        return {"says": [{"output": k, "name": drawable(str(names[k])), "value": float(said[k])} for k in most]}

    def _occlude(self, asked: Request) -> dict[str, Any]:
        """By how much covering each of some windows changes what is said; which windows, `about` says."""
        values = asked.json()
        output, first, last = int(values["output"]), int(values["first"]), int(values["last"])
        covers = windows(self.loaded.encoder.grid, MOST_WINDOWS)[first:last]
        image = self.shelf[values["image"]].normalised[0].to(self.device)
        said = said_of(scores_occluded(self._answering, image, [[], *covers]), self.loaded.info["task"])
        return {"changes": _finite(said[1:, output] - said[0, output])}

    # ------------------------------------------------------------ neighbours

    @property
    def _neighbours(self) -> Neighbours:
        if self.neighbours is None:
            raise UserError("no set of images was given", "start again with --neighbours DATA")
        return self.neighbours

    def _nearest(self, asked: Request) -> dict[str, Any]:
        found = self._neighbours.of(self.shelf[asked.json()["image"]])
        others = self._neighbours.others
        return {"nearest": [{"number": n, "name": others.name(n), "similarity": s} for n, s in found]}


def _as_json(make: Callable[[Request], dict[str, Any]]) -> Callable[[Request], Answer]:
    @torch.inference_mode()
    def answer(asked: Request) -> Answer:
        return Answer.of(make(asked))

    return answer


def _whole(asked: Request, name: str) -> int:
    """A number of the address. Raises ValueError where it is none."""
    return int(asked.query[name])


def _stats(word: str) -> PatchStats:
    if word not in get_args(PatchStats):
        raise ValueError(f"patch_stats is {word!r}")
    return word  # type: ignore[return-value]


def _finite(values: Tensor) -> list[float]:
    """As JSON has them; a diverged model's NaN becomes 0."""
    return values.double().nan_to_num(0.0, 1e30, -1e30).cpu().tolist()
