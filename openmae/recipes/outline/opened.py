"""What an outlining learns from: MODEL and DATA, opened, with what is outlined in the images."""

from dataclasses import dataclass

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.words import several
from openmae.data.annotated import open_annotated, train_and_val
from openmae.data.annotations.annotations import Annotated
from openmae.data.annotations.mask_folders import Wanted
from openmae.data.dividing import notes_on_copies
from openmae.data.fewer_labels import asked_labels
from openmae.data.sources.source import Subset
from openmae.errors import UserError
from openmae.evaluate.suited import suited
from openmae.recipes.levels import check_levels
from openmae.recipes.outline.settings import Outline
from openmae.recipes.training.encoder import Start, fresh, loaded_model, pretrained
from openmae.recipes.training.kind import Here
from openmae.recipes.training.settings import given


@dataclass(frozen=True)
class Outlined:
    """MODEL and DATA, opened: images to learn from and to be judged by, and what is outlined in them."""

    start: Start
    train: Annotated
    val: Annotated

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in order."""
        return self.train.right.names

    @property
    def fingerprint(self) -> str:
        """Of images and outlines."""
        parts = (self.train, self.val)
        return " ".join(f"{part.images.fingerprint} {part.right.fingerprint}" for part in parts)

    @property
    def count(self) -> int:
        """Of the images that are learnt from."""
        return len(self.train)


def open_outlined(settings: Outline, here: Here, wanted: Wanted) -> Outlined:
    """Raises UserError."""
    with here.ranks.together():
        loaded = loaded_model(settings, here.console)
    train, val = here.ranks.each_in_turn(lambda: _split(settings, here.console, wanted))
    start = (
        fresh(settings, train.images, here.workers, here.console)
        if loaded is None
        else pretrained(settings, suited(loaded, train.images, settings.reading, here.workers, here.console))
    )
    if len(start.encoder.img_size) != 2:
        raise UserError(f"this model is for images of {len(start.encoder.img_size)} axes, and files hold 2")
    names = train.right.names
    here.console.print(
        f"{len(names)} class{'es' * (len(names) != 1)}; learnt from {several(len(train), 'image')}, judged by "
        f"{len(val):,} others"
    )
    return Outlined(start, train, val)


def check_both(settings: Outline, opened: Outlined, here: Here) -> None:
    """Raises UserError where train or val images have other levels than the encoder is for."""
    start = opened.start
    for annotated, seen in ((opened.train, start.levels), (opened.val, None)):
        check_levels(given(settings.model), start.statistics, annotated.images, here.workers, here.console, seen)


def _split(settings: Outline, console: Console, wanted: Wanted) -> tuple[Annotated, Annotated]:
    """The images to learn from and to be judged by. Raises UserError."""
    opened = open_annotated(
        given(settings.data),
        wanted,
        reading=settings.reading,
        selection=settings.selection,
        masks_hold=settings.masks_hold,
    )
    train, val = train_and_val(opened, settings.seed)
    for note in (*opened.notes, *notes_on_copies(train.images, val.images)):
        said = f"warning: {with_flags(str(note))}" if note.is_warning else with_flags(str(note))
        console.print(said, style="yellow" if note.is_warning else None, soft_wrap=True, highlight=False)
    part = asked_labels(train.images, settings.labels, "regression", settings.seed, settings.selection)
    return (train.take(part.indices) if isinstance(part, Subset) and part is not train.images else train), val
