"""The server of a page over HTTP: who is let in, what is loaded, and what becomes of what goes wrong."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from openmae.errors import UserError
from openmae.web import server as serving
from openmae.web.server import Answer, PageServer, Request


@contextmanager
def served(port: int = 0) -> Iterator[PageServer]:
    with PageServer(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def refuse(asked: Request) -> Answer:
    raise UserError("this is no image", "give one")


def fail(asked: Request) -> Answer:
    raise RuntimeError("out of something")


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with served() as server:
        server.routes = {
            ("POST", "echo"): lambda asked: Answer.of({"query": asked.query, "size": len(asked.body)}),
            ("POST", "json"): lambda asked: Answer.of(asked.json()),
            ("GET", "refused"): refuse,
            ("GET", "failing"): fail,
        }
        yield server


def ask(
    server: PageServer, path: str, method: str = "GET", body: bytes = b"", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_the_page_and_its_parts_come_with_a_policy_that_lets_nothing_in(server: PageServer) -> None:
    for name, kind in (("", "html"), ("demo.js", "javascript"), ("demo.css", "css"), ("icon.svg", "svg")):
        status, body, headers = ask(server, f"/{server.token}/{name}")
        assert (status, bool(body)) == (200, True)
        assert kind in headers["Content-Type"]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
    for name in ("../server.py", "server.py", "%2e%2e/server.py", "none.js", "page/demo.js"):
        assert ask(server, f"/{server.token}/{name}")[0] == 404


def test_only_who_knows_the_token_and_asks_for_this_machine_is_answered(server: PageServer) -> None:
    path = f"/{server.token}/demo.js"
    port = server.server_address[1]
    for stranger in ("/", "/demo.js", "/wrong/demo.js", f"/{server.token[:-1]}/demo.js", f"/{server.token}", "//"):
        assert ask(server, stranger)[0] == 403
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:9999", "localhost"):  # as at the end of a tunnel
        assert ask(server, path, Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "", f"127.0.0.1.evil.example:{port}"):
        assert ask(server, path, Host=host)[0] == 403
    echo = f"/{server.token}/echo"
    assert ask(server, echo, "POST", Origin="http://evil.example")[0] == 403
    assert ask(server, echo, "POST", Host=f"localhost:{port}", Origin=f"http://127.0.0.1:{port}")[0] == 403
    assert ask(server, echo, "POST", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    assert server.address == f"http://127.0.0.1:{port}/{server.token}/"
    assert server.server_address[0] == "127.0.0.1"


def test_what_goes_wrong_is_a_sentence(server: PageServer) -> None:
    def said(path: str, method: str = "GET", body: bytes = b"") -> tuple[int, str]:
        status, answer, _ = ask(server, f"/{server.token}/{path}", method, body)
        return status, json.loads(answer)["wrong"]

    assert said("refused") == (422, "this is no image: give one")
    assert said("failing") == (500, "this failed: RuntimeError: out of something")
    assert said("nothing") == (404, "there is nothing at 'nothing'")
    assert said("json", "POST", b"[1]")[0] == 400
    assert said("json", "POST", b"{")[0] == 400
    status, body, _ = ask(server, f"/{server.token}/echo?name=a%20b", "POST", b"123")
    assert (status, json.loads(body)) == (200, {"query": {"name": "a b"}, "size": 3})


def test_more_than_is_taken_is_not_read(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_BODY", 2**20)
    with socket.create_connection(server.server_address[:2], timeout=30) as client:  # type: ignore[arg-type]
        head = f"POST /{server.token}/echo HTTP/1.1\r\nHost: {urlsplit(server.address).netloc}\r\nContent-Length: "
        client.sendall(f"{head}{2**20 + 1}\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"more than 1 MB are not taken" in answer
    assert ask(server, f"/{server.token}/echo", "POST", b"1")[0] == 200


def test_a_browser_that_leaves_in_the_middle_harms_nobody(server: PageServer) -> None:
    with socket.create_connection(server.server_address[:2], timeout=30) as client:  # type: ignore[arg-type]
        client.sendall(
            f"POST /{server.token}/echo HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 9\r\n\r\nab".encode()
        )
    assert ask(server, f"/{server.token}/echo", "POST", b"1")[0] == 200


def test_a_port_that_cannot_be_had(server: PageServer) -> None:
    for port in (server.server_address[1], 70000):
        with pytest.raises(UserError, match=str(port)):
            PageServer(port)
