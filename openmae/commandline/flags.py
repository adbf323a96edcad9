"""Settings called by their flags. Below recipes a sentence names them as Python does, in backquotes."""

import re
from collections.abc import Container

# Alone between spaces and marks: a file may have such a name in its own.
_SETTING = re.compile(r"(?<![^\s(])`([a-z]\w*)(?:=([^`]*))?`(?![^\s),;:])")


def with_flags(sentence: str) -> str:
    """What a command prints or keeps in a list of what it found: `in_chans` becomes --in-chans, `device='cpu'` --device
    cpu, `bands=(3, 2, 1)` --bands 3 2 1, and `hflip=False` --no-hflip."""
    return _SETTING.sub(
        lambda found: (
            flag(f"no_{found[1]}") if found[2] == "False" else f"{flag(found[1])} {_words(found[2] or '')}".rstrip()
        ),
        sentence,
    )


def flag(name: str) -> str:
    """Of a setting: --img-size of img_size; --from of from_, whose name Python keeps for itself."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def setting(word: str, known: Container[str]) -> str:
    """The inverse, of a flag without its dashes or of a key of a file: that of the known settings, else as it is."""
    name = word.replace("-", "_")
    return f"{name}_" if f"{name}_" in known else name


def _words(value: str) -> str:
    """A value as Python writes it -> as it is typed."""
    return re.sub(r"[(),']", "", value)
