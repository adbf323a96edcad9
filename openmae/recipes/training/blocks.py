"""How many images are read at once where nobody says: those that a server would be asked for one by one."""

from rich.console import Console

from openmae.console.words import size_of
from openmae.data.sources.source import Source

_BYTES = 1 << 22  # of a block: a server takes as long to answer as to send so many
_LEAST_BLOCKS = 1000  # of an epoch: of fewer, too many images of a batch would be neighbours


def block_for(source: Source, console: Console) -> int:
    """Images of a block of a training that begins; said where it is more than one."""
    size = source.bytes_far
    block = 1 if size is None else max(1, min(round(_BYTES / max(1.0, size)), len(source) // _LEAST_BLOCKS))
    if block > 1:
        console.print(
            f"The images come from a server: {block} that lie one after the other are read at once, "
            f"{size_of(block * (size or 0.0))}, and shuffled with those of other places (--shuffle-block 1: each by "
            "itself)",
            soft_wrap=True,
        )
    return block
