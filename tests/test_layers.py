"""What import-linter cannot see of the rooms."""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from openmae.cli import COMMANDS, module_of
from openmae.commandline.flags import flag

ROOT = Path(__file__).parents[1] / "openmae"
KNOW_FLAGS = ("cli.py", "commandline/", "recipes/", "studies/")
IN_MARKDOWN = "report/card/"  # backquotes mean code there
_SETTING = re.compile(r"`([a-z]\w*)(?:=[^`]*)?`")
_WHOLE_COMMAND = re.compile(rf"openmae ({'|'.join(COMMANDS)}) [^`]*")  # quoted for a shell, not a setting of a function


def _settings() -> set[str]:
    found: set[str] = set()
    for command, (_, name, _) in COMMANDS.items():
        found |= {field.name for field in fields(getattr(importlib.import_module(module_of(command)), name))}
    return found


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings that are not for whoever reads the code; {} for what is put into one."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Expr | ast.JoinedStr):  # docstrings, and parts of what comes whole
                continue
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.lineno, child.value
            if isinstance(child, ast.JoinedStr):
                yield (
                    child.lineno,
                    "".join(
                        getattr(part, "value", "") if isinstance(part, ast.Constant) else "{}" for part in child.values
                    ),
                )


def _texts_below_recipes() -> Iterator[tuple[str, str]]:
    for file in sorted(ROOT.rglob("*.py")):
        place = file.relative_to(ROOT).as_posix()
        if not place.startswith(KNOW_FLAGS):
            for line, text in _texts(ast.parse(file.read_text())):
                yield f"{place}:{line}", text


def test_below_recipes_no_text_knows_a_flag() -> None:
    flags = re.compile("|".join(rf"{flag(name)}(?![\w-])" for name in _settings()))
    found = [(place, text) for place, text in _texts_below_recipes() if flags.search(_WHOLE_COMMAND.sub("", text))]
    assert not found


def test_every_setting_that_a_text_names_is_one() -> None:
    texts = [(place, text) for place, text in _texts_below_recipes() if not place.startswith(IN_MARKDOWN)]
    named = {(place, name) for place, text in texts for name in _SETTING.findall(text)}
    assert len(named) > 20
    settings = _settings()
    assert not [one for one in named if one[1] not in settings]
