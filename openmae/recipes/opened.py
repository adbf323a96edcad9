"""What every command says of DATA, once it has opened what it uses of it."""

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.data.dividing import notes_on_copies
from openmae.data.opening import Data
from openmae.data.sources.source import Source


def tell(data: Data, console: Console, *apart: Source) -> None:
    """A line for each thing that is worth saying. apart: train and val, where they are to have no image in common."""
    for note in [*data.notes, *(notes_on_copies(*apart) if apart else ())]:
        said = with_flags(f"{note.what}: {note.advice}" if note.advice else note.what)
        if note.is_warning:
            console.print(f"warning: {said}", style="yellow", soft_wrap=True, highlight=False)
        else:
            console.print(said, soft_wrap=True, highlight=False)
