"""What commands take of DATA once it is opened, and what every one says of it."""

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.words import in_a_line, several
from openmae.data.dividing import notes_on_copies
from openmae.data.note import Note
from openmae.data.opening import Data, Split
from openmae.data.sources.source import Source
from openmae.data.tasks import some
from openmae.errors import UserError


def tell(data: Data, console: Console, *apart: Source) -> None:
    """A line for each thing that is worth saying. apart: train and val, where they are to have no image in common."""
    say_notes([*data.notes, *(notes_on_copies(*apart) if apart else ())], console)


def say_notes(notes: Iterable[Note], console: Console) -> None:
    """A line for each."""
    for note in notes:
        said = with_flags(str(note))
        if note.is_warning:
            console.print(f"warning: {said}", style="yellow", soft_wrap=True, highlight=False)
        else:
            console.print(said, soft_wrap=True, highlight=False)


def say_unreadable(names: Sequence[str], images: str, data: str, console: Console) -> None:
    """Which of the images, such as 25 images, are of no use to a command that goes on without them."""
    console.print(
        f"{len(names):,} of {images} cannot be read and are left out ({some([*map(in_a_line, names)])}): see openmae "
        f"check {data}",
        style="yellow",
        soft_wrap=True,
    )


def part_of(data: Data, split: Literal["all"] | Split) -> Source:
    """All of its images, or those of a split. Raises UserError where it has none."""
    if split == "all":
        return data.all
    if not data.has_splits:
        raise UserError(f"{data.location} has no splits", f"leave --split {split} out")
    return data.split(split)


def images_said(count: int, location: str, split: Literal["all"] | Split) -> str:
    """How many images of what, and of which split where one is asked for."""
    return f"{several(count, 'image')} in {location}{'' if split == 'all' else f' ({split})'}"
