"""What --jobs and --part of a study say."""

from openmae.errors import UserError


def check_shared(part: str | None, jobs: int) -> None:
    """Raises UserError where they do not go together, and for a part that there is not."""
    if part is not None and jobs > 1:
        raise UserError("--part is for one process, and --jobs asks for several", "leave one of them out")
    if part is not None:
        share_of(part)


def share_of(part: str) -> tuple[int, int]:
    """(K, N) of K/N. Raises UserError."""
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"--part is '{part}'", "give K/N, such as 2/8: K from 1 to N")
    return int(number), int(of)
