"""A page of page/ as one file that needs no server and no network: its style, its modules and its data lie in it.

A browser opens it from a disk, where modules cannot import each other: they become functions in one script, in the
order in which they need each other. The page says by their hashes which scripts and styles may run, and loads nothing.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from posixpath import dirname, join, normpath
from typing import Any

from openmae.files.policy import policy

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_WASM = "'wasm-unsafe-eval'"  # which the model's runtime is
_LINKS = (  # of index.html, to its parts
    '<link rel="icon" href="icon.svg" type="image/svg+xml">\n<link rel="stylesheet" href="demo.css">\n'
    '<script type="module" src="server.js"></script>\n'
)


def single_page(
    entry: str, before: Sequence[str], values: Mapping[str, Any], packed: Mapping[str, bytes], note: str = ""
) -> bytes:
    """The page whose answers come from the module `entry` of page/.

    before: scripts of others, which run first. values: for the module, as JSON in #given. packed: for the module by the
    id of what holds them, as base64 of gzip. note: a comment at its beginning. Raises ValueError for a script that HTML
    would end in its middle.
    """
    style, scripts = _read("demo.css"), [*before, bundled(entry)]
    for script in scripts:
        if found := re.search(r"</script|<!--", script, re.IGNORECASE):
            raise ValueError(f"a script holds {found[0]}")
    icon = base64.b64encode(_read("icon.svg").encode()).decode()
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, scripts, _WASM)}">\n'
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}">\n<style>{style}</style>\n'
    )
    given = json.dumps(values, allow_nan=False).replace("<", "\\u003c")
    blocks = [f'<script type="application/json" id="given">{given}</script>']
    for name, data in packed.items():
        letters = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
        blocks.append(f'<script type="text/plain" id="{name}">{letters}</script>')
    blocks += [f'<script type="module">{script}</script>' for script in scripts]
    page = _read("index.html")
    assert page.count(_LINKS) == page.count("</body>") == 1
    page = page.replace(_LINKS, head).replace("</body>", "\n".join([*blocks, "</body>"]))
    comment = note.replace("--", "- -")
    return (page.replace("<head>\n", f"<!--\n{comment}\n-->\n<head>\n", 1) if note else page).encode()


def bundled(entry: str) -> str:
    """A module of page/ and all that it imports, as one script."""
    written: dict[str, str] = {}

    def write(path: str) -> None:
        if path in written:
            return
        text = _read(path)
        beside = {said: normpath(join(dirname(path), said)) for _, said in _IMPORT.findall(text)}
        for other in beside.values():
            write(other)
        names = ", ".join(_EXPORT.findall(text))
        text = _IMPORT.sub(lambda found: f"const {found[1]} = modules[{json.dumps(beside[found[2]])}];\n", text)
        text = _EXPORT.sub("", text)
        written[path] = f"modules[{json.dumps(path)}] = (() => {{\n{text}return {{ {names} }};\n}})();\n"

    write(entry)
    return "const modules = {};\n" + "".join(written.values())


def _read(path: str) -> str:
    return (resources.files("openmae.web") / "page" / path).read_text("utf-8")
