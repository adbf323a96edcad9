"""What a model said of each test image, and the figure that this makes, with images counted any number of times.

Shapes: n images, K outputs, R resamples, L labels.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.files.whole import write_file

Judge = Literal["share", "mean_ap", "r2"]
"""The figure: the mean of what each image is given, as accuracy is, mean average precision, or R²."""
_JUDGES: dict[str, Judge] = {"classification": "share", "multi-label": "mean_ap", "regression": "r2"}
_AT_ONCE = 2**24  # numbers


@dataclass(frozen=True)
class Outcome:
    """What a model said of n test images.

    said: (n, K) float32: of a share, (n, 1) what the image adds, 1 where its class is right; else scores or numbers.
    right: (n, K) float32: the labels or numbers; of a share, (n, 0).
    units: (n,) int64, the same number for the same image in all outcomes, or for its group where images belong
        together: what is drawn together.
    """

    judge: Judge
    said: NDArray[np.float32]
    right: NDArray[np.float32]
    units: NDArray[np.int64]

    def figure(self) -> float:
        """With every image counted once."""
        return float(self.figures(np.ones((1, len(self.units))))[0])

    def figures(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, n) how often each image counts -> (R,). nan where nothing is left to judge by."""
        rows = max(1, _AT_ONCE // max(1, weights.shape[1]))
        compute = {"share": self._share, "mean_ap": self._mean_ap, "r2": self._r2}[self.judge]
        parts = [compute(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        return np.concatenate(parts)

    def _share(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return weights @ self.said[:, 0].astype(np.float64) / weights.sum(1)

    def _r2(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        right, said = self.right[:, 0].astype(np.float64), self.said[:, 0].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = weights @ right / weights.sum(1)
            spread = weights @ right**2 - weights.sum(1) * mean**2
            return 1 - weights @ (right - said) ** 2 / np.where(spread > 1e-12, spread, np.nan)

    def _mean_ap(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over the labels that some of the images that count have, and not all."""
        found = []
        for said, right in zip(self.said.T, self.right.T, strict=True):
            has = right > 0
            share = weights[:, has].sum(1) / weights.sum(1)
            found.append(np.where((share > 0) & (share < 1), _average_precision(said, has, weights), np.nan))
        table = np.array(found)  # (L, R)
        counted = np.isfinite(table).sum(0)
        return np.where(counted > 0, np.nansum(table, 0) / np.maximum(counted, 1), np.nan)


def _average_precision(
    said: NDArray[np.float32], has: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,), (n,), (R, n) -> (R,): as scikit-learn defines it, equal scores together."""
    order = np.argsort(-said, kind="stable")
    said, has, weights = said[order], has[order], weights[:, order]
    ends = np.flatnonzero(np.append(said[1:] != said[:-1], True))  # the last of equals
    found = (weights * has).cumsum(1)[:, ends]
    asked = weights.cumsum(1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(asked > 0, found / asked, 0.0)
        return (gained * precision).sum(1) / found[:, -1]


def outcome_of(scores: Tensor, right: Answers, units: NDArray[np.int64]) -> Outcome:
    """Of scores (n, K) on the images that `right` answers for."""
    judge = _JUDGES[right.task]
    if judge == "share":
        values = right.values[:, None].astype(np.int64)
        said = (scores.numpy().argmax(1)[:, None] == values).astype(np.float32)
        return Outcome(judge, said, np.zeros((len(said), 0), np.float32), units)
    return Outcome(judge, scores.float().numpy(), right.values.astype(np.float32), units)


def save_outcomes(file: Path, outcomes: dict[str, Outcome]) -> None:
    """Writes a .npz, complete or as it was before. Raises OSError."""
    arrays = {
        f"{name}/{part}": getattr(outcome, part)
        for name, outcome in outcomes.items()
        for part in ("said", "right", "units")
    }
    judges = {f"{name}/judge": np.array(outcome.judge) for name, outcome in outcomes.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**arrays, **judges})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, buffer.getvalue())


def read_outcomes(file: Path) -> dict[str, Outcome]:
    """What `save_outcomes` wrote. Raises UserError where it is damaged or gone."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
            return {name: _outcome({key: arrays[f"{name}/{key}"] for key in _PARTS}) for name in names}
    except (OSError, ValueError, KeyError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged or gone ({error})", "begin the study anew in another folder") from error


_PARTS = ("judge", "said", "right", "units")


def _outcome(parts: dict[str, NDArray[np.generic]]) -> Outcome:
    judge = str(parts["judge"])
    found = next(one for one in _JUDGES.values() if one == judge)
    return Outcome(
        found, parts["said"].astype(np.float32), parts["right"].astype(np.float32), parts["units"].astype(np.int64)
    )
