"""Real files, damaged at random and by malice: the same from the same seed."""

import contextlib
import copy
import json
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from openmae.errors import UserError

Mutate = Callable[[random.Random, bytes], bytes]

SECONDS, MEMORY = 20, 3 * 2**30
"""What one case may take before it counts as a hang, and bytes that it may ask for (arrow reserves 1 GiB)."""
_NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_WORDS = (b"", b"-1", b"0", b"9" * 30, b"1e999", b"nan", b"null", b"true", b"..", b"/", b"\0", b"\n", b'"', b"[" * 3000)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 10**30, 10**400, float("nan"), float("inf"),
    "", "a", "0", "-1", "../../escape", "/etc/passwd", "--help", "\0", "\ud800", "\x1b[2J", "<b>", "$x^2$", "x" * 5000,
    "9" * 5000, [], [[]], {}, {"a": None}, [1, "a", None], [0] * 100,
)  # fmt: skip


def damaged(draws: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut, doubled, put in; one to four times."""
    changed = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        at = draws.randrange(len(changed) + 1)
        length = min(len(changed) - at, draws.choice((1, 2, 4, 8, 64, len(changed))))
        kind = draws.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([draws.randrange(256)])
        elif kind == 1 and at < len(changed):
            changed[at] ^= 1 << draws.randrange(8)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length][:4096]
        elif kind == 4:
            form = draws.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
            mask = (1 << 8 * struct.calcsize(form)) - 1
            changed[at : at + struct.calcsize(form)] = struct.pack(form, draws.choice(_NUMBERS) & mask)
        elif kind == 5:
            changed[at : at + draws.choice((0, 1, 4))] = draws.choice(_WORDS)
        else:
            changed[at:at] = draws.randbytes(draws.choice((1, 4, 64)))
    return bytes(changed)


def wrong_values(draws: random.Random, data: bytes) -> bytes:
    """JSON, one to three of its values replaced, doubled, taken out or called otherwise."""
    return json.dumps(with_wrong_values(draws, json.loads(data))).encode()


def wrong_lines(draws: random.Random, data: bytes) -> bytes:
    """One JSON a line, some of them as wrong_values makes them."""
    lines = data.splitlines()
    for _ in range(draws.choice((1, 2, 5))):
        at = draws.randrange(len(lines))
        lines[at] = wrong_values(draws, lines[at])
    return b"\n".join(lines) + b"\n"


def with_wrong_values(draws: random.Random, value: Any) -> Any:
    """What JSON or TOML gave, changed in one to three places."""
    box = {"": copy.deepcopy(value)}
    for _ in range(draws.choice((1, 1, 2, 3))):
        holder, key = draws.choice(list(_places(box)))
        kind = draws.randrange(8)
        if kind == 0 and key != "":
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 1 and key != "":
            holder[draws.choice(("", "a", "\ud800", "eval/x", key + key))] = copy.deepcopy(holder[key])
        elif kind == 2 and isinstance(holder[key], int | float):
            holder[key] = draws.choice((-1, 0.5, 1e9)) * draws.choice(_NUMBERS)
        elif kind == 3:
            holder[key] = [holder[key]] if draws.random() < 0.9 else _deep(draws.choice((50, 70, 150)))
        else:
            holder[key] = copy.deepcopy(draws.choice(_VALUES))
    return box[""]


def _deep(levels: int) -> Any:
    value: Any = 0
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def _places(value: Any, levels: int = 8) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if levels and isinstance(value[key], dict | list):
            yield from _places(value[key], levels - 1)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends what hangs, and refuses memory to what asks for too much of it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {SECONDS} seconds")

    with open("/proc/self/statm") as file:  # noqa: PTH123
        held = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def tried(seeds: range, case: Callable[[random.Random], bool]) -> int:
    """How many of the cases were read. Each is read (True), refused, or a failure that names its seed."""
    read = 0
    for seed in seeds:
        try:
            with bounded():
                read += case(random.Random(seed))
        except UserError:
            continue
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    return read
