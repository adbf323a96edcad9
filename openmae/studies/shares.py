"""What --jobs and --part of a study say."""

from openmae.distributed.share import share_of
from openmae.errors import UserError


def share_in(part: str | None) -> tuple[int, int] | None:
    """(K, N) of --part. Raises UserError."""
    if part is None:
        return None
    share = share_of(part)
    return share.number, share.of


def check_shared(part: str | None, jobs: int) -> None:
    """Raises UserError where they do not go together, and for a part that there is not."""
    if part is not None and jobs > 1:
        raise UserError("--part is for one process, and --jobs asks for several", "leave one of them out")
    share_in(part)
