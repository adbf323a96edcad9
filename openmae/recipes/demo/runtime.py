"""onnxruntime-web, which runs ONNX graphs in a browser: taken from the npm registry once, and kept.

It is no part of openmae. Its version is one, and what was taken has to be that, byte by byte.
"""

import hashlib
import io
import os
import re
import tarfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from rich.console import Console

from openmae.errors import UserError
from openmae.files.address import shown
from openmae.files.cache import cache_folder
from openmae.files.whole import write_file

VERSION = "1.30.0"
NAME = f"onnxruntime-web-{VERSION}.tgz"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
REGISTRY = "https://registry.npmjs.org"
_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
SECONDS = 60  # that the registry may be silent
_SCRIPT, _WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
_END = re.compile(r"export\{([^}]*)\};?\s*(?://# sourceMappingURL=\S*\s*)?$")

LICENCE = f"""This page holds ONNX Runtime Web {VERSION}.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


@dataclass(frozen=True)
class Runtime:
    """script: a module that leaves all of it in `globalThis.ort`. wasm: what it runs."""

    script: str
    wasm: bytes


def kept() -> Path:
    """Where it is kept; it may not be there."""
    return cache_folder() / NAME


def runtime(given: Path | None, console: Console) -> Runtime:
    """Of the file given, or the one that is kept, or else from the registry. Raises UserError."""
    if given is not None:
        try:
            return _unpacked(given.read_bytes(), str(given))
        except OSError as error:
            raise UserError(f"{given} cannot be read ({error.strerror})", _how_to_give()) from error
    with suppress(OSError, UserError):  # damaged, it is taken anew
        return _unpacked(kept().read_bytes(), str(kept()))
    url = address()
    console.print(f"Taking {NAME} (33 MB), which runs the model in a browser, once: {shown(url)}", soft_wrap=True)
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            data = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(f"{shown(url)} cannot be had ({why})", _how_to_give()) from error
    found = _unpacked(data, shown(url))
    with suppress(OSError):  # without a cache it is taken again the next time
        kept().parent.mkdir(parents=True, exist_ok=True)
        write_file(kept(), data)
    return found


def address() -> str:
    """Of the registry that npm asks, too. Raises UserError for one that is no https or http."""
    registry = next(filter(None, map(os.environ.get, _VARIABLES)), REGISTRY)
    if not registry.startswith(("https://", "http://")):
        raise UserError(f"npm_config_registry is {registry}", f"give an address such as {REGISTRY}")
    return f"{registry.rstrip('/')}/onnxruntime-web/-/{NAME}"


def _how_to_give() -> str:
    where = f"{REGISTRY}/onnxruntime-web/-/{NAME}"
    return (
        f"where there is a network, take {where} (npm pack onnxruntime-web@{VERSION} does), and give it here: "
        f"--runtime {NAME}"
    )


def _unpacked(data: bytes, name: str) -> Runtime:
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{name} is not onnxruntime-web {VERSION}: its SHA-256 is {digest[:12]}..., not {SHA256[:12]}...",
            _how_to_give(),
        )
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:  # unpacked once: it is 120 MB
        for member in archive:
            if member.name in (_SCRIPT, _WASM) and (file := archive.extractfile(member)) is not None:
                parts[member.name] = file.read()
    return Runtime(_leaving_it(parts[_SCRIPT].decode()), parts[_WASM])


def _leaving_it(module: str) -> str:
    """The module without its exports, which no other could import from a page on a disk."""
    end = _END.search(module)
    assert end is not None
    pairs = (one.split(" as ") for one in end[1].split(","))
    return f"{module[: end.start()]}globalThis.ort={{{','.join(f'{name}:{local}' for local, name in pairs)}}};"
