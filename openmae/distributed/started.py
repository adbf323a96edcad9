"""How this process was started: alone, or as one of several by torchrun and its like, as the environment says (RANK,
WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE). Without torch."""

import os
from typing import NamedTuple

from openmae.errors import UserError, said_once

_MOST = 10**6  # processes


class Started(NamedTuple):
    """rank: 0 to size - 1; local_rank, local_size: among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


ALONE = Started()


def started() -> Started:
    """What the environment says. Raises UserError where the environment does not make sense."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return ALONE
    found = Started(_number("RANK"), size, _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1))
    if found.rank >= size:  # nobody would ever answer it
        raise UserError(
            f"RANK is {found.rank} and WORLD_SIZE {size} in the environment", "start several processes with torchrun"
        )
    return found


@said_once()
def refuse_ranks(what: str) -> None:
    """Raises UserError where several processes were started."""
    if _number("WORLD_SIZE", 1) > 1:
        raise UserError(
            f"{what} is for one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment",
            "start it without torchrun",
        )


def _number(name: str, default: int | None = None) -> int:
    given = os.environ.get(name)
    if given is None and default is not None:
        return default
    if given is None or not given.isdecimal() or int(given) > _MOST:
        raise UserError(f"{name} is {given or 'not set'} in the environment", "start several processes with torchrun")
    return int(given)
