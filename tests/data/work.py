"""Pieces of work for a pool of processes: numbers to be squared."""

from openmae.data.loading.pool import Hand
from openmae.errors import BrokenImage

TASKS = [range(start, start + 4) for start in range(0, 80, 4)]


def squares(task: range, hand: Hand) -> list[int | str]:
    found: list[int | str] = []
    for number in task:
        try:
            hand.take(number)
            found.append(number * number)
        except BrokenImage as error:
            found.append(str(error))
    return found
