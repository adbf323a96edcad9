"""The words of a command line before tyro sees them: --config files, empty words, flags that do not exist."""

import dataclasses
import difflib
import os
import sys
from pathlib import Path
from typing import Any, get_type_hints

from openmae.commandline.flags import flag, setting
from openmae.errors import UserError
from openmae.files.address import hide
from openmae.files.parsing import read_toml

_OTHERWISE = {"epochs": "minutes", "minutes": "epochs"}
"""Settings that say the same in another way: on the command line one of them takes the place of the other in a file."""


def with_config_file(argv: list[str], settings_type: type, derived: tuple[str, ...]) -> list[str]:
    """The words, with the settings of `--config FILE` before the command line's own flags, which therefore win.

    derived: keys that are not settings but stand in the config.toml of a run, so that this can be given too.
    Raises UserError where the file cannot be read, or holds what is no setting.
    """
    for at, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            values = [word.split("=", 1)[1]] if "=" in word else argv[at + 1 : at + 2]
            if not values:
                raise UserError("--config needs a file", "--config settings.toml")
            given = argv[:at] + argv[at + (1 if "=" in word else 2) :]
            first_flag = next((i for i, w in enumerate(given) if w.startswith("--")), len(given))
            words = _config_words(Path(values[0]), settings_type, derived, given, with_places=first_flag == 0)
            return given[:first_flag] + words + given[first_flag:]
    return argv


def _config_words(
    file: Path, settings_type: type, derived: tuple[str, ...], given: list[str], with_places: bool
) -> list[str]:
    """given: the command line's own words."""
    from openmae.commandline.refusal import has_place

    try:
        values = read_toml(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error})", "give a TOML file") from error
    except ValueError as error:
        raise UserError(f"{file} is not TOML ({error})", "mend that line") from error
    known = [field.name for field in dataclasses.fields(settings_type)]
    hints = get_type_hints(settings_type, include_extras=True)
    words: list[str] = []
    placed: dict[str, str] = {}  # MODEL and DATA; those on the command line take their place
    for key, value in values.items():
        name = setting(key, known)
        if name in derived:
            continue
        if name not in known:
            raise UserError(f"{file} has an unknown key '{key}'{suggestion(name, known)}")
        if isinstance(value, dict):
            raise UserError(f"{file} has a table '{key}'", "give settings without tables")
        if any(isinstance(one, str) and one.startswith("-") for one in (value if isinstance(value, list) else [value])):
            raise UserError(f"{file} has '{key}' as {value!r}, which would be read as a flag", "give another value")
        if (other := _OTHERWISE.get(name)) and any(word.split("=")[0] == flag(other) for word in given):
            if os.environ.get("RANK", "0") == "0":
                print(f"{flag(other)} takes the place of {flag(name)} {value} in {file}", file=sys.stderr, flush=True)
        elif has_place(hints[name]):
            placed[name] = hide(str(value))
        else:
            words += _flag_words(name, value)
    return [*(placed[name] for name in known if name in placed), *words] if with_places else words


def _flag_words(name: str, value: Any) -> list[str]:
    if isinstance(value, int) and value.bit_length() > 1000:
        value = float("inf")  # which is refused; Python declines to write so many digits
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    if isinstance(value, list) and name in ("img_size", "patch_size"):
        return [flag(name), "x".join(map(str, value))]
    values = value if isinstance(value, list) else [value]
    return [flag(name), *map(str, values)]


def repeated(argv: list[str], settings_type: type) -> list[str]:
    """The words, with --vary A B as --vary A --vary B, where a flag may be given several times."""
    from tyro.conf import UseAppendAction

    hints = get_type_hints(settings_type, include_extras=True)
    several = {flag(name) for name, hint in hints.items() if UseAppendAction in getattr(hint, "__metadata__", ())}
    words: list[str] = []
    current, given = "", False
    for word in argv:
        if word.startswith("--"):
            current, given = word if word in several else "", False
        elif current and given:
            words.append(current)
        given = not word.startswith("--")
        words.append(word)
    return words


def refuse_empty_words(argv: list[str]) -> None:
    """Raises UserError for a variable of the shell's that is not set; as a folder it would be the present one."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            where = f" after {before}" * before.startswith("--") if not word else f" in {word}"
            raise UserError(f"there is an empty word{where}", "give a value; a variable may not be set")


def refuse_unknown_flags(argv: list[str], settings_type: type) -> None:
    """Raises UserError, with a suggestion, for a flag that does not exist."""
    from openmae.commandline.refusal import is_switch

    known = {"help", "config"}
    for name, hint in get_type_hints(settings_type, include_extras=True).items():
        word = flag(name)[2:]
        known |= {word, f"no-{word}"} if is_switch(hint) else {word}
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name = word[2:].split("=", 1)[0].replace("_", "-")
            if name not in known and not name.startswith("tyro-"):
                raise UserError(
                    f"there is no flag --{name}{suggestion(name, sorted(known), prefix='--')}", "see --help"
                )


def suggestion(word: str, known: list[str], prefix: str = "") -> str:
    """` (did you mean ...?)` with the known word that is nearest; empty where none is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
