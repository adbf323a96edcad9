"""A shuffle that is computed and not kept: which of n things comes at a place, for any place by itself.

A Feistel network on the cells of a grid of n cells or a few more: by turns the row is moved by a hash of the column and
the column by one of the row, which can be undone whatever the hash, so that no two cells meet; what comes out beyond n
goes through again (cycle walking). Both are the means of format-preserving encryption (Black and Rogaway, Ciphers with
arbitrary finite domains, CT-RSA 2002; NIST SP 800-38G). It is no secret here: the hash is SplitMix64's.
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
"""Half of them move rows. Four make a pseudorandom permutation in theory (Luby and Rackoff, 1988), of many things."""

_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_HALF = np.uint64(32)

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


def shuffled(at: Numbers, sizes: Numbers, keys: Keys, which: Numbers) -> Numbers:
    """What comes at these places.

    at: (n,), of 0 to below sizes. sizes: (n,) or (1,) how many things are shuffled, 1 to 2**62. keys: (ROUNDS,) numbers
    of the shuffle. which: (n,) or (1,) of many shuffles by the same keys, from 0. Gives (n,), of 0 to below sizes.
    """
    rows = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    columns = (-(-sizes // rows.astype(np.int64))).astype(np.uint64)
    salts = _hashed(which.astype(np.uint64) * _GOLDEN)
    found = at.astype(np.uint64)
    limits = sizes.astype(np.uint64)
    left: slice | NDArray[np.intp] = slice(None)
    while True:
        some = [one if len(one) == 1 else one[left] for one in (rows, columns, salts, limits)]
        found[left] = moved = _once(found[left], some[0], some[1], keys, some[2])
        beyond = np.flatnonzero(moved >= some[3])
        if not len(beyond):
            return found.astype(np.int64)
        left = beyond if isinstance(left, slice) else left[beyond]


def _once(
    at: NDArray[np.uint64],
    rows: NDArray[np.uint64],
    columns: NDArray[np.uint64],
    keys: Keys,
    salts: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """The cell that each cell of the grid becomes."""
    row, column = np.divmod(at, columns)
    for number, key in enumerate(keys):
        if number % 2 == 0:
            row = _turned(row, column, rows, key + salts)
        else:
            column = _turned(column, row, columns, key + salts)
    return row * columns + column


def _turned(
    half: NDArray[np.uint64], other: NDArray[np.uint64], size: NDArray[np.uint64], key: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """`half` moved by what the other one says, around `size`."""
    by = ((_hashed(other * _GOLDEN + key) >> _HALF) * size) >> _HALF  # 0 to below size, which is below 2**32
    half = half + by
    return half - np.where(half >= size, size, np.uint64(0))


def _hashed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's last step (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
