"""The methods by their names: which are asked for, which DATA allows, and what the papers say of their cost."""

from collections.abc import Sequence

from openmae.baselines.methods import METHODS
from openmae.commandline.words import suggestion
from openmae.data.tasks import answers, task_of
from openmae.errors import UserError
from openmae.studies.opened import Opened

MAE, SUPERVISED, RANDOM = "mae", "supervised", "random"
NAMES = (MAE, *METHODS, RANDOM)
PUBLISHED = {
    MAE: 1.6,
    SUPERVISED: 3.0,
    "dae": 3.0,
    "beit": 3.0,
    "simclr": 6.0,
    "byol": 8.0,
    "mocov3": 8.0,
    "dino": 13.6,
    RANDOM: 0.0,
}
"""Forward passes of the encoder that an image costs in training, as the papers' settings have it at ViT-B and 224
pixels; a backward pass is two. DINO: two crops of 224 and ten of 96."""


def asked_for(methods: str | None) -> tuple[str, ...] | None:
    """Those that --methods names; None where it names none. Raises UserError for one that there is not."""
    if methods is None:
        return None
    found = [name.strip() for name in methods.split(",") if name.strip()]
    for at, name in enumerate(found):
        if name not in NAMES:
            raise UserError(
                f"no method is called '{name}'{suggestion(name, list(NAMES))}", f"there are {', '.join(NAMES)}"
            )
        if name in found[:at]:
            raise UserError(f"--methods has {name} twice", "give it once")
    if not found:
        raise UserError("--methods names none", f"there are {', '.join(NAMES)}")
    return tuple(found)


def allowed(asked: Sequence[str] | None, opened: Opened, *, others_judge: bool) -> tuple[tuple[str, ...], str]:
    """(methods, what is said of one that is left out). others_judge: images other than DATA's. Raises UserError
    where one is asked for that cannot be."""
    if asked is not None and SUPERVISED not in asked:
        return tuple(asked), ""
    why = _why_not_supervised(opened, others_judge)
    if why is None:
        return tuple(asked or NAMES), ""
    what, advice = why
    if asked is not None:
        raise UserError(f"supervised cannot be compared: {what}", advice)
    return tuple(name for name in NAMES if name != SUPERVISED), f"supervised is left out: {what}"


def _why_not_supervised(opened: Opened, others_judge: bool) -> tuple[str, str] | None:
    """(why, what to do); None where it can be trained."""
    source = opened.data.train
    try:
        right = answers(source, task_of(source))
    except UserError as error:
        return f"DATA has no labels to learn ({error.what})", "give DATA labels, or leave supervised out"
    if right.task == "regression":
        return "DATA's labels are numbers, and it learns classes", "leave supervised out"
    if right.task == "classification" and len(right.names) < 2:
        return f"DATA has one class ({right.names[0]})", "leave supervised out"
    if not opened.data.has_splits and not others_judge:
        return (
            "DATA has no splits, so it would learn the labels of the judging images",
            "give DATA splits train and val, or leave supervised out",
        )
    return None
