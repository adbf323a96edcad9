"""What the C library does with memory that was freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's mallopt(3)
_MOST = 2**31 - 1
MOST_OF_A_THREAD = 2**26 - 2**21
"""Bytes of a tensor that threads but the first one keep when they free it: glibc's heaps of theirs are 64 MiB, and what
is larger is new memory each time, page by page, whatever is asked of it."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # glibc, or another one, which lacks these functions


def keep_freed_memory() -> None:
    """From now on this process keeps what it frees, for the next step, which needs as much again. Otherwise each large
    tensor is new memory from the system, page by page: 7 to 22% of a step of ViT-B on 2 cores (docs/log.md). Does
    nothing where there is no glibc."""
    _set({_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 2**26})


def give_back_freed_memory() -> None:
    """The opposite, for where memory is short: about what glibc does by itself, and what is free goes back at once."""
    _set({_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17})
    give_back_what_is_free()


def give_back_what_is_free() -> None:
    """Now, and no more than that; a large image that is read part by part leaves holes between what is kept of it."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(values: dict[int, int]) -> None:
    mallopt = getattr(_LIBC, "mallopt", None)
    for name, value in values.items():
        if mallopt is not None:
            mallopt(name, value)
