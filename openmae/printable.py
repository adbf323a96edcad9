"""Text that is safe to show: names of files and classes come from people who may mean harm."""

import re

# What terminals take for commands (C0 but for tab and line end, DEL, C1), what turns the direction of writing, and
# halves of characters, by which Python stands for bytes that are no text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with such characters written out, as \\x1b."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)
