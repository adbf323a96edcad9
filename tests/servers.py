"""A real local web server that serves a folder, with byte ranges, and fails on request."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from openmae.data.sources.remote import Patience

PATIENT = Patience(pause=0.02)  # with which a busy machine does not fail, of clients that soon ask again
STALLED_SECONDS = 1.5  # long after the clients of the tests have given up


@dataclass
class Server:
    """url: of the served folder. fail: asked with the number of the request and its path, names what goes wrong:
    an HTTP status, "stall", "cut" (half of the content), "short" (half, as if that were all), "drip" (a byte now and
    then), "reset" (no answer), "no ranges", "gzip" (all of it, packed), an address to be asked instead, or "" for
    nothing, or "S3 CODE", as S3 says why it refuses. signed: by whom requests were, where they were. tells_versions:
    whether answers have an ETag."""

    url: str
    fail: Callable[[int, str], str] = lambda number, path: ""
    requests: list[str] = field(default_factory=list)
    ranges: list[range] = field(default_factory=list)
    most_at_once: int = 0
    signed: list[str] = field(default_factory=list)
    tells_versions: bool = True


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serves the folder until the block ends."""
    server = Server("")
    lock = threading.Lock()
    at_once = [0]

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with lock:
                number = len(server.requests)
                server.requests.append(self.path)
                server.signed.append(self.headers.get("Authorization", ""))
                at_once[0] += 1
                server.most_at_once = max(server.most_at_once, at_once[0])
            try:
                self.answer(server.fail(number, self.path))
            finally:
                with lock:
                    at_once[0] -= 1

        def answer(self, failure: str) -> None:
            if failure == "stall":
                time.sleep(STALLED_SECONDS)
            if failure in ("stall", "reset"):
                self.close_connection = True
                return
            if failure.startswith("S3 "):
                said = f"<Error><Code>{failure[3:]}</Code><Message>it says so</Message></Error>".encode()
                self.send_response(403)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
                return
            if failure.isdecimal():
                self.send_error(int(failure))
                return
            if failure.startswith(("http", "/", "file")):
                self.send_response(302)
                self.send_header("Location", failure)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers.get("Range")
            file = Path(self.translate_path(self.path))
            if wanted is None or not file.is_file() or failure == "no ranges":
                super().do_GET()
                return
            status = file.stat()
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            server.ranges.append(range(int(first), int(last) + 1))
            with file.open("rb") as opened:
                opened.seek(int(first))
                part = opened.read(int(last) + 1 - int(first))
            if not part:
                self.send_error(416)
                return
            if failure == "short":
                part = part[: len(part) // 2]
            self.send_response(206)
            if failure == "gzip":
                part = gzip.compress(part)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{status.st_size}")
            if server.tells_versions:
                self.send_header("ETag", f'"{status.st_mtime_ns}-{status.st_size}"')
            self.end_headers()
            time.sleep(0.01)
            if failure == "cut":
                part = part[: len(part) // 2]
                self.close_connection = True
            with suppress(OSError):  # the client has given up
                self.send_content(part, drip=failure == "drip")

        def send_content(self, part: bytes, drip: bool) -> None:
            for byte in part[:80] if drip else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
            self.wfile.write(part[80:] if drip else part)

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
