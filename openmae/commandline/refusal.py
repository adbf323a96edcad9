"""Why a command line is refused, in one sentence: tyro's own message is a box that shows how settings are declared."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from openmae.commandline.flags import flag, setting
from openmae.errors import UserError

_POSITIONAL = get_args(Positional[int])[1]  # what marks a setting that has a place instead of a flag


class _Kind(NamedTuple):
    """What a flag takes: how many words (None: any number), what reads one of them or raises ValueError, and what to
    say of them where that error says nothing."""

    words: int | None
    read: Callable[[str], object]
    advice: str = ""


def why_refused(command: str, argv: Sequence[str], settings_type: type) -> UserError:
    """What to say of words that cannot be made settings: the first bad value, else what is missing or too many."""
    hints = get_type_hints(settings_type, include_extras=True)
    loose: list[str] = []
    flags: set[str] = set()
    for name, given in _grouped(argv, hints):
        flags.add(name)
        if not name:
            loose += given
        elif complaint := _complaint(given, _kind(hints[name])):
            return UserError(f"{flag(name)} is {' '.join(given) or 'without a value'}", complaint)
    if unknown := [word for word in loose if word.startswith("-")]:
        return UserError(f"there is no flag {unknown[0]}", f"see openmae {command} --help")
    required = [field.name for field in dataclasses.fields(settings_type) if field.default is dataclasses.MISSING]
    places = [name for name in required if has_place(hints[name])]
    missing = places[len(loose) :] + [name for name in required if name not in places and name not in flags]
    usage = f"openmae {command} {' '.join(_shown(name, hints[name]) for name in required)}"
    if missing:
        said = " and ".join(_shown(name, hints[name]) for name in missing)
        return UserError(
            f"{said} {'is' if len(missing) == 1 else 'are'} missing", f"{usage} (see openmae {command} --help)"
        )
    if loose:
        return UserError(
            f"'{loose[-1]}' is one word too many", f"see openmae {command} --help; a name with spaces needs quotes"
        )
    return UserError("this is not understood", f"see openmae {command} --help")


def _grouped(argv: Sequence[str], hints: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each setting whose flag takes words, with those given to it; "" with each word that belongs to no flag."""
    at = 0
    while at < len(argv):
        flag, equals, value = argv[at].partition("=") if argv[at].startswith("--") else ("", "", "")
        name = setting(flag[2:], hints)
        at += 1
        if not flag:
            yield "", [argv[at - 1]]
        elif name in hints and not is_switch(hints[name]):
            most = 0 if equals else _kind(hints[name]).words
            after = list(takewhile(lambda word: not word.startswith("--"), argv[at:]))[:most]
            at += len(after)
            yield name, [value] if equals else after


def _kind(hint: Any) -> _Kind:
    """What a setting of this type takes."""
    for note in getattr(hint, "__metadata__", ()):
        if read := getattr(note, "instance_from_str", None):  # a type of our own
            return _Kind(1, lambda word: read([word]))
    if hasattr(hint, "__metadata__"):
        return _kind(hint.__origin__)
    parts = get_args(hint)
    if type(None) in parts:
        return _kind(next(part for part in parts if part is not type(None)))
    if get_origin(hint) is Literal:
        choices = [str(part) for part in parts]
        return _Kind(1, choices.index, f"give one of {', '.join(choices)}")
    if get_origin(hint) is tuple:
        count, inner = None if parts[-1] is ... else len(parts), _kind(parts[0])
        advice = f"give {count} numbers" if count else "give numbers with spaces between them, and DATA before the flag"
        if parts[0] not in (int, float):
            advice = f"{inner.advice}, several with spaces between them"
        return _Kind(count, inner.read, advice)
    numbers = {int: "give a whole number", float: "give a number"}
    return _Kind(1, hint if hint in numbers else str, numbers.get(hint, "give one"))


def _complaint(given: Sequence[str], kind: _Kind) -> str:
    """What to give instead of these words; empty where they will do."""
    try:
        for word in given:
            kind.read(word)
    except ValueError as error:
        return kind.advice or str(error)
    return kind.advice or "give one" if len(given) < (kind.words or 0) else ""


def has_place(hint: Any) -> bool:
    """Whether a setting of this type is given by its place, not by a flag."""
    return _POSITIONAL in getattr(hint, "__metadata__", ())


def is_switch(hint: Any) -> bool:
    """Whether a setting of this type is given as --it or --no-it."""
    return getattr(hint, "__origin__", hint) is bool


def _shown(name: str, hint: Any) -> str:
    """DATA for what has its place, --out RUN for a flag."""
    notes = getattr(hint, "__metadata__", ())
    metavar = next((note.metavar for note in notes if getattr(note, "metavar", None)), name.upper())
    return metavar if has_place(hint) else f"{flag(name)} {metavar}"
