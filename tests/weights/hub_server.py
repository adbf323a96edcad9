"""A stand-in for the Hugging Face Hub: a real HTTP server on this machine that keeps repositories in memory.

It answers what huggingface_hub asks for to make a model repository, to commit to it and to fetch from it. What it is
not: it has no Xet storage (the real Hub prefers it; the clients here are told HF_HUB_DISABLE_XET, and take LFS), no
multi-part uploads, no redirect to a storage host, no branches or tags but `main` and commit ids, no pull requests, no
organisations, no rate limits and no git. It checks a card's head for being there, not its YAML. Its errors have the
codes and headers that huggingface_hub reads, written after the client's source, not after the real server's answers.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_LFS_FROM = 1000  # bytes; smaller files go into the commit itself


@dataclass
class Repository:
    """private: seen by its owner alone. gated: seen by nobody who has not asked. commits: id -> files, oldest first."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = files
        return name


@dataclass
class Hub:
    """tokens: of whom. fail: asked with the method and the path, names what goes wrong: an HTTP status, "reset" (no
    answer), "cut" (half of the content), or "" for nothing. requests: what was asked, "GET /api/models/..."."""

    url: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_alice": "alice", "hf_bob": "bob"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    fail: Callable[[str, str], str] = lambda method, path: ""
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> Repository:
        """A repository with these files."""
        repository = Repository(name.split("/")[0], **settings)
        repository.commit(files)
        self.repositories[name] = repository
        return repository


class _Answered(Exception):
    """An answer that ends the request."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serves until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        store = hub

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    hub.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second of two waits 40 ms for the first to be acknowledged
    store: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.requests.append(f"{self.command} {path}")
        self.failure = self.store.fail(self.command, path)
        if self.failure == "reset":
            self.close_connection = True
            return
        try:
            if self.failure.isdecimal():
                raise _Answered(int(self.failure))
            for pattern, function in _ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    function(self, body, **found.groupdict())
                    return
            raise _Answered(404, "EntryNotFound")
        except _Answered as answered:
            said = json.dumps({"error": answered.message or "refused"}).encode()
            headers = {"X-Error-Code": answered.code, "X-Error-Message": answered.message}
            self.send(said, answered.status, {name: value for name, value in headers.items() if value})

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.failure == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(content)

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.store.tokens:
            raise _Answered(401, message="Invalid credentials in Authorization header")
        return self.store.tokens.get(token)

    def writer(self) -> str:
        if (user := self.user) is None:
            raise _Answered(401, message="Invalid username or password.")
        return user

    def found(self, name: str, revision: str = "main", writes: bool = False) -> tuple[Repository, str]:
        """The repository, and the commit that the revision names."""
        user, repository = self.user, self.store.repositories.get(name)
        if repository is None or (repository.private and user != repository.owner):
            raise _Answered(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if repository.gated and user != repository.owner and "resolve" in self.path:
            raise _Answered(401 if user is None else 403, "GatedRepo", f"Access to model {name} is restricted")
        if writes and user != repository.owner:
            raise _Answered(403, message="Forbidden: you don't have the right to write")
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            raise _Answered(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    # ---------------------------------------------------------------- routes

    def whoami(self, body: bytes) -> None:
        self.send_json({"name": self.writer(), "type": "user"})

    def validate(self, body: bytes) -> None:
        head = json.loads(body)["content"].startswith("---\n")
        self.send_json({"errors": [], "warnings": [] if head else [{"message": "empty or missing yaml metadata"}]})

    def create(self, body: bytes) -> None:
        asked, user = json.loads(body), self.writer()
        owner = asked.get("organization") or user
        name = f"{owner}/{asked['name']}"
        url = f"{self.store.url}/{name}"
        if owner != user:
            raise _Answered(403, message="Forbidden: you don't have the right to create a model there")
        if name in self.store.repositories:
            self.send_json({"error": "You already created this model repo", "url": url}, 409)
            return
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.store.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=is_private)
        self.send_json({"url": url, "name": name, "id": "0"})

    def info(self, body: bytes, name: str, revision: str = "main") -> None:
        repository, commit = self.found(name, revision)
        files = [{"rfilename": file} for file in repository.commits[commit]]
        about = {"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": files, "tags": [], "downloads": 0}
        self.send_json({**about, "private": repository.private, "likes": 0})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        repository, commit = self.found(name, revision)
        self.send_json([_entry(file, content) for file, content in repository.commits[commit].items()])

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        repository, commit = self.found(name, revision, writes=True)
        there = repository.commits[commit]
        answers = []
        for file in json.loads(body)["files"]:
            mode, path = (
                ("lfs" if file["size"] >= _LFS_FROM and file["path"] != "README.md" else "regular"),
                file["path"],
            )
            oid = _digest(there[path], mode) if path in there else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": answers})

    def batch(self, body: bytes, name: str) -> None:
        self.found(name, writes=True)
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.store.url}/storage/{one['oid']}"}}
            objects.append({**one, **({} if one["oid"] in self.store.stored else {"actions": upload})})
        self.send_json({"transfer": "basic", "objects": objects})

    def keep(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Answered(400, message="the content is not what it was said to be")
        self.store.stored[oid] = body
        self.send(b"")

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository, commit = self.found(name, revision, writes=True)
        files = dict(repository.commits[commit])
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit", commit) != commit:
                raise _Answered(412, message="A commit has happened since")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if key == "lfsFile":
                files[value["path"]] = self.store.stored[value["oid"]]
            if key == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files)
        self.send_json({"success": True, "commitOid": made, "commitUrl": f"{self.store.url}/{name}/commit/{made}"})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        repository, commit = self.found(name, revision)
        content = repository.commits[commit].get(file)
        if content is None:
            raise _Answered(404, "EntryNotFound", "Entry not found")
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send(content, headers={"ETag": etag, "X-Repo-Commit": commit})


def _entry(file: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": file, "size": len(content), "oid": _digest(content, "regular")}


def _digest(content: bytes, mode: str) -> str:
    """As git has it, or, of large files, as LFS has it."""
    return hashlib.sha256(content).hexdigest() if mode == "lfs" else _git(content)


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO, _REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w./-]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/validate-yaml", _Handler.validate),
    (r"POST /api/repos/create", _Handler.create),
    (rf"GET /api/models/{_REPO}", _Handler.info),
    (rf"GET /api/models/{_REPO}/revision/{_REVISION}", _Handler.info),
    (rf"GET /api/models/{_REPO}/tree/{_REVISION}", _Handler.tree),
    (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /storage/(?P<oid>[0-9a-f]{64})", _Handler.keep),
    (rf"POST /api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
