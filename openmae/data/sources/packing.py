"""How far images and arrays can honestly be packed."""

from openmae.errors import UserError

_LEAST_REFUSED = 2**28  # bytes, unpacked
_MOST = 1100  # times; deflate packs zeros 1,032 times, bzip2 and zstd a hundred thousand times


def check_packing(what: str, unpacked: int, packed: int) -> None:
    """Raises UserError where so many bytes unpack to so many more that they are zeros and nothing else."""
    if unpacked > max(_LEAST_REFUSED, _MOST * packed):
        raise UserError(
            f"{what} unpacks from {packed:,} to {unpacked:,} bytes, as no images do", "leave it out, or save it anew"
        )
