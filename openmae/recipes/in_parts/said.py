"""What processes that share a work say of it."""

from collections.abc import Sequence

from rich.console import Console

from openmae.distributed.share import Share
from openmae.errors import UserError

_MOST_NAMED = 8  # shares in a sentence


def say_done(share: Share, is_last: bool, console: Console) -> None:
    """That a share is. is_last: whether this process puts all of them together, and so has more to say."""
    console.quiet = not (is_last or share.speaks)
    then = (
        "All others are too: what they found is put together"
        if is_last
        else "When all others are, the last one puts together what they found; so does the same command without --part"
    )
    console.print(f"Part {share} is done. {then}", soft_wrap=True)


def still_missing(shares: Sequence[Share], what: str) -> UserError:
    """The error of who would put them together. what: "768 images"."""
    named = ", ".join(map(str, shares[:_MOST_NAMED])) + ", ..." * (len(shares) > _MOST_NAMED)
    are = "is" if len(shares) == 1 else "are"
    return UserError(
        f"of {shares[0].of} parts {len(shares)} {are} not done: {named}, {what} in all",
        "run them, by the same command with --part",
    )
