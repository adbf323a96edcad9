"""`python -m tests.python.stub` writes openmae/__init__.pyi: what type checkers and editors know of the calls, with
every setting. It is made of the settings themselves, and a test compares the two."""

import inspect
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import openmae

KINDS = ("AnyModel", "Data", "Mask", "Place", "Target", "Text")
FILE = Path(openmae.__file__).with_suffix(".pyi")
HEAD = '''"""Written by `python -m tests.python.stub`: change the settings, not this."""

from pathlib import Path
from typing import Any, Literal

import numpy
import PIL.Image

{imports}

__version__: str
__all__ = [
{names}
]
'''


def text() -> str:
    """What the file has to be."""
    places = openmae._PLACES
    calls = {name: getattr(openmae, name) for name in places}
    written = {name: one for name, one in calls.items() if hasattr(one, "__signature__")}
    others = {name: place for name, place in places.items() if name not in written}
    body = "".join(f"\n{definition(name, one)}" for name, one in written.items())
    known = [name for name in KINDS if re.search(rf"\b{name}\b", body)]
    imported = [f"from openmae.python.kinds import {name} as {name}" for name in known]
    imported += [f"from openmae.{place} import {name} as {name}" for name, place in others.items()]
    names = "\n".join(f'    "{name}",' for name in sorted(places))
    ruff = [Path(sys.executable).parent / "ruff"]
    made = HEAD.format(imports="\n".join(imported), names=names) + body
    for words in (["check", "--quiet", "--fix", "--select", "I,F401,RUF022"], ["format", "--quiet"]):
        made = subprocess.run(
            [*ruff, *words, "--stdin-filename", FILE, "-"], input=made, capture_output=True, text=True, check=True
        ).stdout
    return made


def definition(name: str, call: Any) -> str:
    signature = inspect.signature(call)
    parameters, starred = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            starred = True
            parameters.append("*")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        parameters.append(f"{one.name}: {written(one.annotation)}{default}")
    about = inspect.cleandoc(call.__doc__).split("\n\n")[0]
    doc = about if len(about) < 110 else about.split(". ")[0]
    return f'def {name}({", ".join(parameters)}) -> {written(signature.return_annotation)}:\n    """{doc}"""\n'


def written(hint: Any) -> str:
    """A type as an annotation has it; where a path is meant, a text will do, and of several values a list."""
    if hint in (Path, str):
        return "Place" if hint is Path else "Text"
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(written(part) for part in get_args(hint)))
    if get_origin(hint) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(hint)))}]"
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        inner = written(parts[0])
        some = f"tuple[{', '.join('...' if part is ... else written(part) for part in parts)}] | list[{inner}]"
        return f"{some} | {inner}" if parts[-1] is ... else some
    if hint is type(None) or hint is None:
        return "None"
    return hint if isinstance(hint, str) else str(getattr(hint, "__name__", hint))


if __name__ == "__main__":
    FILE.write_text(text())
