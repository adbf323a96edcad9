"""Serves a page and what it asks for to one user of this machine, and to nobody else.

It listens on 127.0.0.1 alone. Every address begins with a token that only whoever started it has seen; the name in
Host has to be this machine's own, so that a page from elsewhere, whose name was turned to 127.0.0.1, is refused (DNS
rebinding); and the page may load nothing from outside (Content-Security-Policy).
"""

import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from openmae.commandline.flags import with_flags
from openmae.errors import BrokenImage, UserError

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")  # of this machine; the port may be another one, at the end of an SSH tunnel
MAX_BODY = 2**29  # bytes of an image file
SECONDS = 30  # that a browser may take over the next bytes
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # which would tell the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Request:
    """What a browser asks: the words behind the address's question mark, and what it sends."""

    query: Mapping[str, str]
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """The body as JSON has it. Raises ValueError where it is none."""
        found = json.loads(self.body)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found


@dataclass(frozen=True)
class Answer:
    """What it is given. kind: of the bytes, as HTTP names it."""

    body: bytes
    kind: str = "application/json"
    status: int = 200

    @classmethod
    def of(cls, values: Mapping[str, Any], status: int = 200) -> Self:
        """As JSON."""
        return cls(json.dumps(values, allow_nan=False).encode(), status=status)


Routes = Mapping[tuple[str, str], Callable[[Request], Answer]]
"""By method and path, such as ("POST", "fill")."""


class PageServer(ThreadingHTTPServer):
    """Listens from the moment that it is made; a context manager. Answers are made one at a time, in one thread: torch
    keeps threads of its own for each that asks, and two tabs would take the cores from each other.

    port: 0 takes one that is free. Raises UserError where the port cannot be had.
    """

    request_queue_size = 64

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(16)
        self.routes: Routes = {}
        self._worker = ThreadPoolExecutor(1, "answers")
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OverflowError as error:
            raise UserError(f"`port` is {port}", "give 1 to 65535, or leave it out for one that is free") from error
        except OSError as error:
            raise UserError(
                f"port {port} cannot be had ({error.strerror})", "give another `port`, or leave it out"
            ) from error

    def server_bind(self) -> None:
        """Without looking up a name of this machine, for which some networks take half a minute."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def address(self) -> str:
        """What to open, with the token."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def answer(self, method: str, path: str, request: Request) -> Answer:
        """What the page is given; what is wrong, in a sentence, where it cannot be."""
        made = self.routes.get((method, path))
        if made is None:
            return _wrong(f"there is nothing at {path!r}", 404)
        try:
            return self._worker.submit(made, request).result()
        except (UserError, BrokenImage) as error:
            return _wrong(with_flags(str(error)), 422)
        except (KeyError, TypeError, ValueError) as error:
            return _wrong(f"this cannot be answered: {type(error).__name__}: {error}", 400)
        except MemoryError:
            return _wrong("there is not enough memory for this", 500)
        except Exception as error:  # the page says it, and goes on
            return _wrong(f"this failed: {type(error).__name__}: {error}", 500)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no error."""

    def server_close(self) -> None:
        """Waits for the answer that is being made, so that no thread computes while Python ends."""
        super().server_close()
        self._worker.shutdown(cancel_futures=True)


def _wrong(sentence: str, status: int) -> Answer:
    return Answer.of({"wrong": sentence}, status)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "openmae", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, method: str) -> None:
        path = self._path_below_token()
        if path is None:
            self.close_connection = True
            self._send(_wrong("open the address that `openmae demo` printed", 403))
            return
        if method == "GET" and (page := _file(path)) is not None:
            self._send(page)
            return
        size = self.headers.get("Content-Length") or "0"
        if not size.isdecimal() or int(size) > MAX_BODY:
            self.close_connection = True  # what comes is not read
            self._send(_wrong(f"more than {MAX_BODY // 2**20} MB are not taken", 413))
            return
        body = self.rfile.read(int(size))
        query = dict(parse_qsl(urlsplit(self.path).query))
        self._send(self.server.answer(method, path, Request(query, body)))

    def _path_below_token(self) -> str | None:
        """What is asked for; None for whoever may not ask."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        if host.partition(":")[0] not in NAMES or origin not in (None, f"http://{host}"):
            return None
        _, _, rest = urlsplit(self.path).path.partition("/")
        token, slash, path = rest.partition("/")
        return path if slash and hmac.compare_digest(token.encode(), self.server.token.encode()) else None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        text = answer.kind.startswith("text/")
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8" if text else answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """The console is for the user."""


def _file(path: str) -> Answer | None:
    """One of the page's own; None where it has none of this name."""
    name = path or "index.html"
    suffix = name[name.rfind(".") :]
    file = resources.files("openmae.web") / "page" / name
    if "/" in name or suffix not in KINDS or not file.is_file():
        return None
    return Answer(file.read_bytes(), KINDS[suffix])
