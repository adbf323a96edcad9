"""What --jobs and --part of a study say."""

from openmae.distributed.share import share_of
from openmae.errors import UserError


def check_shared(part: str | None, jobs: int) -> None:
    """Raises UserError where they do not go together, and for a part that there is not."""
    if part is not None and jobs > 1:
        raise UserError("--part is for one process, and --jobs asks for several", "leave one of them out")
    if part is not None:
        share_of(part)
