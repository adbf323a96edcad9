"""Which part of DATA judges a model that may have learnt from the rest."""

from pathlib import Path

from openmae.data.opening import Data
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.splits import split_name
from openmae.errors import UserError
from openmae.files.address import whole_address
from openmae.recipes.evaluate.settings import AskedSplit
from openmae.recipes.learnt import learnt_from
from openmae.weights import Loaded


def part_for(
    data: Data, split: AskedSplit | None, model: Path, loaded: Loaded, is_recognized: bool = False
) -> tuple[AskedSplit, bool]:
    """(the part to judge by, whether it is one of two that were drawn when the model learnt). split: what is asked for;
    None: what suits. is_recognized: that the model learnt from DATA, though it does not say so. Raises UserError where
    DATA has no such part."""
    if data.has_splits or split == "test":
        return split or "val", False
    is_known = is_recognized or whole_address(data.location) == learnt_from(model, loaded)
    if split == "all" or (split is None and not is_known):
        return "all", False
    if not is_known:
        raise UserError(
            f"{data.location} has no splits train and val, and {model} did not learn from it",
            "leave --split out, or make folders train and val",
        )
    return split or "val", True


def check_held_out(location: str, val: Source, model: Path, loaded: Loaded) -> None:
    """Raises UserError where `val`, drawn anew, is not what was held out when the model learnt."""
    if loaded.info["provenance"].get("held_out", val.fingerprint) != val.fingerprint:
        raise UserError(
            f"{location} has changed since {model} learnt from it, and nobody knows which of its images were held out",
            "give others, or --split all, which counts what was learnt as well",
        )


def may_be_learnt(data: str, split: AskedSplit, learnt_from: str, then: Selection) -> bool:
    """Whether the model may have seen these images while it learnt: all but val, also where a folder of it is given,
    whatever it is called. then: what was asked of the data that it learnt from."""
    place = whole_address(data)
    if place == learnt_from:
        return split not in ("val", "test")
    if not learnt_from or not place.startswith(f"{learnt_from}/"):
        return False
    below = f"{place}/".removeprefix(f"{learnt_from}/")
    if then.pair is not None:
        return not below.startswith(f"{then.pair[1]}/")
    said = next((found for part in below.split("/") if (found := split_name(part)) is not None), None)
    return then.is_one_set or said is None or said.kind == "train" or not said.is_plain


MAY_BE_LEARNT = "The model has learnt from some of these: it will do worse on images that it never saw"
