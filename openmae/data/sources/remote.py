"""Ranges of files on http(s):// and s3://, fetched at the same time, with patience for servers that fail for a while.

Addresses and passwords of S3 are those of every AWS tool (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ~/.aws).
"""

import asyncio
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from math import inf
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin

from openmae.data.sources import redirects
from openmae.errors import UserError
from openmae.files.address import HIDDEN, hide, shown, whole

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long a server that stalls or fails is asked again.

    stall: seconds without a byte that end a try; total: seconds in which none of what was asked for has come, after
    which all of it is given up; pause: seconds before the second try, doubled before each further one.
    """

    tries: int = 5
    stall: float = 15.0
    total: float = 120.0
    pause: float = 0.5


PATIENCE = Patience()
_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""", re.IGNORECASE)
_AT_ONCE = 32  # requests under way in one process
_MOST_OF_A_FILE = 1 << 28  # bytes of one that is fetched whole: a list of shards or of classes

# Errors of the libraries below, which need not be installed, by the names of their classes.
_NO_CREDENTIALS = frozenset(("NoCredentialsError", "PartialCredentialsError"))
_EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"))  # S3's own, as the next
_SKEWED = frozenset(("RequestTimeTooSkewed", "RequestInTheFuture"))
_UNREACHABLE = frozenset(("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError"))

servers: dict[tuple[int, str], "_Server"] = {}  # by process and protocol


@dataclass(frozen=True)
class Span:
    """`length` bytes of the file at `url`, from `start` on."""

    url: str
    start: int
    length: int


@dataclass(frozen=True)
class RemoteFile:
    """A file's size in bytes, and a tag that changes when it is written anew (empty where the server gives none)."""

    url: str
    size: int
    tag: str


def is_remote(data: str) -> bool:
    """Whether DATA is an address rather than a path."""
    return "://" in data


def fetch_spans(spans: Sequence[Span]) -> list[bytes | OSError]:
    """The bytes of each span, or why they cannot be had after all tries. As everything here, raises UserError where
    no file of this server could be read."""
    return _each(spans, lambda server, span: server.span(span), lambda span: span.url)


def fetch_together(groups: Sequence[Sequence[Span]]) -> list[list[bytes | OSError]]:
    """As `fetch_spans`, with one request for each group of spans, which follow each other in a file."""
    whole = [Span(one[0].url, one[0].start, one[-1].start + one[-1].length - one[0].start) for one in groups]
    found = [_parts(*each) for each in zip(groups, whole, fetch_spans(whole), strict=True)]
    # The file may have become shorter, and hold some of them.
    shorter = [n for n, one in enumerate(found) if isinstance(one[0], Refused | Short) and len(one) > 1]
    again = iter(fetch_spans([span for number in shorter for span in groups[number]]))
    for number in shorter:
        found[number] = [next(again) for _ in groups[number]]
    return found


def _parts(spans: Sequence[Span], over: Span, data: bytes | OSError) -> list[bytes | OSError]:
    """What a request for all of these spans says of each."""
    if isinstance(data, OSError):
        return [data] * len(spans)
    starts = [span.start - over.start for span in spans]
    return [data[start : start + span.length] for start, span in zip(starts, spans, strict=True)]


def fetch_file(url: str) -> bytes:
    """A whole file. Raises FileNotFoundError where there is none, OSError after all tries."""
    return _single(_each([url], lambda server, url: server.file(url), str))


def look_up(urls: Sequence[str]) -> list[RemoteFile | OSError]:
    """Size and tag of each file, or why they cannot be had."""
    return _each(urls, lambda server, url: server.look_up(url), str)


def list_folder(url: str, ending: str) -> list[str]:
    """Addresses of the files directly below url whose names end so, sorted. Raises OSError."""
    return sorted(
        name for name in _single(_each([url], lambda server, url: server.list_files(url), str)) if name.endswith(ending)
    )


class Refused(OSError):
    """An answer that another try would not change."""


class Short(OSError):
    """Fewer bytes than were asked for: the answer was cut off, or the file ends there."""


class _Server(ABC):
    """One protocol, as an fsspec filesystem of this process; errors of any kind may be raised."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    async def span(self, span: Span) -> bytes:
        """These bytes, not fewer."""
        data = await self._range(span)
        if len(data) != span.length:
            raise Short(f"gave {len(data):,} bytes where {span.length:,} were asked for")
        return data

    async def renew(self) -> None:  # noqa: B027 (there is nothing to do for most)
        """Reads anew who asks, where that may change in time."""

    @abstractmethod
    async def _range(self, span: Span) -> bytes: ...

    @abstractmethod
    async def file(self, url: str) -> bytes:
        """All of it."""

    @abstractmethod
    async def look_up(self, url: str) -> RemoteFile:
        """Its size and tag."""

    @abstractmethod
    async def list_files(self, url: str) -> list[str]:
        """Addresses of the files directly below url."""


class _Http(_Server):
    """http(s)://. fsspec's own calls do not tell a server that fails from a file that is not there, and read all
    of a file where the server knows no ranges, so requests are made through its session."""

    async def _range(self, span: Span) -> bytes:
        async with self._get(span.url, f"bytes={span.start}-{span.start + span.length - 1}") as answer:
            return await _body(answer, span.length)

    async def file(self, url: str) -> bytes:
        async with self._get(url) as answer:
            return await _body(answer, _MOST_OF_A_FILE)

    async def look_up(self, url: str) -> RemoteFile:
        async with self._get(url, "bytes=0-0") as answer:
            size = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if not size.isdecimal():
                raise Refused("the server does not say how large the file is")
            return RemoteFile(url, int(size), answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")

    async def list_files(self, url: str) -> list[str]:
        page = (await self.file(url)).decode("utf-8", errors="replace")
        start = f"{whole(url)}/"
        written = (unescape("".join(link)) for link in _LINK.findall(page))
        links = {urljoin(start, re.split("[#?]", link)[0]) for link in written}
        return [hide(link) for link in links if _is_right_below(start, link)]

    @asynccontextmanager
    async def _get(self, url: str, wanted: str | None = None) -> AsyncIterator[Any]:
        async with await self._answer(url, wanted) as answer:
            if answer.status in (404, 410):
                raise FileNotFoundError("there is no such file")
            if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
                raise Refused(f"the server answered {answer.status} {answer.reason}")
            if wanted and answer.status == 200:
                raise UserError(
                    f"the server of {shown(url)} does not give parts of files (HTTP ranges), which images are read by",
                    "download the shards and give their folder, or serve them with nginx, Apache or S3",
                )
            if answer.status not in (200, 206):
                raise OSError(f"the server answered {answer.status} {answer.reason}")
            encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):  # what it would unpack to, nobody knows
                raise Refused(f"the server sends the file packed ({encoding}), though it was asked not to")
            yield answer

    async def _answer(self, url: str, wanted: str | None) -> Any:
        """The server's, or that of the one it sends on to. Raises Refused where it may not."""
        headers = {"Accept-Encoding": "identity", **({"Range": wanted} if wanted else {})}
        session = await self.filesystem.set_session()
        place = self.filesystem.encode_url(whole(url))
        for _ in range(redirects.MOST):
            answer = await session.get(place, headers=headers, allow_redirects=False)
            if answer.status not in redirects.CODES or "Location" not in answer.headers:
                return answer
            origin, place = answer.url, answer.url.join(type(answer.url)(answer.headers["Location"]))
            answer.release()
            if reason := await redirects.why_not(origin, place):
                raise Refused(f"the server sends on to {shown(str(place))}, and {reason}")
        raise Refused(f"the server sends on more than {redirects.MOST} times")


def _is_right_below(start: str, link: str) -> bool:
    """Whether it is an address of a file in that folder, however either is quoted."""
    folder, found = unquote(start), unquote(link)
    return found.startswith(folder) and "/" not in found[len(folder) :].rstrip("/")


async def _body(answer: Any, most: int) -> bytes:
    """What the server sends. Raises Refused where that is more than `most` bytes, once it can be told."""
    parts, total = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        total += len(part)
        if total > most:
            raise Refused(f"the server sends more than the {most:,} bytes that were asked for")
    return b"".join(parts)


class _S3(_Server):
    """s3://."""

    def __init__(self, filesystem: Any) -> None:
        super().__init__(filesystem)
        self._renewed = -inf

    async def renew(self) -> None:
        """Of many requests that were refused at once, for one."""
        if time.monotonic() > self._renewed + PATIENCE.pause:
            self._renewed = time.monotonic()
            await self.filesystem.set_session(refresh=True)

    async def _range(self, span: Span) -> bytes:
        return bytes(await self.filesystem._cat_file(span.url, start=span.start, end=span.start + span.length))

    async def file(self, url: str) -> bytes:
        data = bytes(await self.filesystem._cat_file(url, start=0, end=_MOST_OF_A_FILE + 1))
        if len(data) > _MOST_OF_A_FILE:
            raise Refused(f"it has more than the {_MOST_OF_A_FILE:,} bytes that such a file may have")
        return data

    async def look_up(self, url: str) -> RemoteFile:
        found = await self.filesystem._info(url, refresh=True)
        return RemoteFile(url, int(found["size"]), str(found.get("ETag", "")))

    async def list_files(self, url: str) -> list[str]:
        entries = await self.filesystem._ls(url, detail=True, refresh=True)
        return [f"s3://{entry['name']}" for entry in entries if entry["type"] == "file"]


def _server(url: str) -> _Server:
    """Made anew in every process: connections and the thread that serves them do not survive a fork."""
    protocol = url.partition("://")[0]
    if protocol not in ("http", "https", "s3"):
        raise UserError(f"{shown(url)} cannot be read", "give http://, https:// or s3://, or a path")
    if protocol == "s3" and f"{HIDDEN}@" in shown(url):
        raise UserError(
            f"{shown(url)} names who asks",
            "leave that out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run aws configure",
        )
    key = (os.getpid(), protocol)
    if key not in servers:
        servers[key] = _connect_s3() if protocol == "s3" else _connect_http()
    return servers[key]


def _connect_http() -> _Server:
    try:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem
    except ImportError as error:
        raise UserError("reading http:// needs fsspec and aiohttp", "pip install fsspec aiohttp") from error
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE.stall, sock_read=PATIENCE.stall)
    options = {"timeout": timeout, "trust_env": True, "auto_decompress": False}  # trust_env: proxies
    return _Http(HTTPFileSystem(client_kwargs=options, skip_instance_cache=True, use_listings_cache=False))


def _connect_s3() -> _Server:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise UserError("reading s3:// needs s3fs", "pip install s3fs") from error
    options = {"connect_timeout": PATIENCE.stall, "read_timeout": PATIENCE.stall, "retries": {"total_max_attempts": 1}}
    filesystem = S3FileSystem(config_kwargs=options, skip_instance_cache=True, use_listings_cache=False)
    filesystem.retries = 1  # tries are counted here
    return _S3(filesystem)


def _single(results: list[Result | OSError]) -> Result:
    if isinstance(results[0], OSError):
        raise results[0]
    return results[0]


def _each(
    items: Sequence[Item],
    ask: Callable[[_Server, Item], Awaitable[Result]],
    url_of: Callable[[Item], str],
) -> list[Result | OSError]:
    """What `ask` gives for each item, all of one protocol, asked at the same time and again where it fails."""
    if not items:
        return []
    server = _server(url_of(items[0]))
    from fsspec.asyn import sync

    async def all_of_them() -> list[Result | OSError]:
        free = asyncio.Semaphore(_AT_ONCE)
        progress = _Progress()

        async def one(item: Item) -> Result | OSError:
            async with free:
                return await _persist(lambda: ask(server, item), url_of(item), progress, server)

        return await asyncio.gather(*(one(item) for item in items))

    return sync(server.filesystem.loop, all_of_them)


class _Progress:
    """When the server last gave something."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def patience_left(self) -> float:
        """Seconds until it is given up."""
        return self.last + PATIENCE.total - time.monotonic()


async def _persist(
    ask: Callable[[], Awaitable[Result]], url: str, progress: _Progress, server: _Server
) -> Result | OSError:
    """Asks up to PATIENCE.tries times, unless the server has given nothing to anyone for PATIENCE.total seconds. Raises
    UserError where it would answer no request at all."""
    error: Exception = OSError("the server has stopped answering")
    tries = 0
    for attempt in range(PATIENCE.tries):
        if progress.patience_left() <= 0:
            break
        if attempt:
            await asyncio.sleep(PATIENCE.pause * 2 ** (attempt - 1))
        tries += 1
        try:
            result = await asyncio.wait_for(ask(), max(PATIENCE.stall, progress.patience_left()))
            progress.last = time.monotonic()
            return result
        except UserError:
            raise
        except OSError as failure:
            if _code(failure) in _SKEWED:
                raise UserError(
                    f"{shown(url)} cannot be read: this machine's clock is wrong ({failure})",
                    "set it, as by NTP, and run the same command again",
                ) from failure
            if isinstance(failure, FileNotFoundError | PermissionError | Refused) and _code(failure) not in _EXPIRED:
                return type(failure)(shown(f"{url}: {failure}"))
            error = failure
            if _code(failure) in _EXPIRED:
                await server.renew()
        except Exception as failure:  # the libraries below raise nearly every kind
            if type(failure).__name__ in _NO_CREDENTIALS:
                raise UserError(
                    f"{url} cannot be read without credentials",
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run aws configure",
                ) from failure
            error = failure
    if _code(error) in _EXPIRED:
        raise UserError(
            f"{shown(url)} cannot be read any more: the credentials have expired ({error})",
            "renew them, and run the same command again",
        ) from error
    advice = ""
    if type(error).__name__ in _UNREACHABLE:
        advice = f"; check the address{', AWS_ENDPOINT_URL' if url.startswith('s3') else ''} and the network"
    kind = Short if isinstance(error, Short) else OSError
    made = f"{tries} {'try' if tries == 1 else 'tries'}"
    return kind(shown(f"{url}: {str(error) or type(error).__name__} ({made}){advice}"))


def _code(error: BaseException) -> str:
    """What S3 calls it; empty where it does not say."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
