"""Addresses without their secrets.

DATA such as https://user:password@host/{0..9}.tar?token=... is called https://***@host/{0..9}.tar?token=*** from the
moment it is given, in messages, in run folders and in whatever else is printed or kept. What was hidden is remembered
by this process and those that it starts, and put back where a request is made. It is never written, so a run that is
resumed needs it given again.
"""

import re
from os.path import commonprefix
from pathlib import Path

from openmae.errors import UserError
from openmae.own import is_own

HIDDEN = "***"

_SCHEME = r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)"
_IN_TEXT = re.compile(_SCHEME + r"(?:(?P<user>[^\s/?]*)@)?(?P<place>[^\s?]*)(?:\?(?P<query>\S*))?")
_ALONE = re.compile(_SCHEME + r"(?:(?P<user>[^/?]*)@)?(?P<place>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)  # spaces too
_VALUE = re.compile(r"(?P<name>(?:^|(?<=[&;]))[^&;=]*=|(?:^|(?<=[&;])))(?P<value>[^&;]*)")
_AFTER = ":;,.)]}'\">"  # that may follow an address in a sentence
_users: dict[str, str] = {}  # by what addresses begin with
_values: dict[str, list[str]] = {}  # by what addresses begin with

Secrets = tuple[dict[str, str], dict[str, list[str]]]


def shown(text: str) -> str:
    """The text with the secrets of every address in it hidden: who asks, and what a query asks with. A query's value
    that names a file (has braces or ends in .tar) is left, and so are queries of other protocols than http(s)."""
    return _IN_TEXT.sub(lambda found: _hidden(found)[0], text)


def hide(data: str) -> str:
    """DATA, or any word of a command line, as `shown` has it; what is hidden is remembered for `whole`."""
    found = _ALONE.fullmatch(data)
    return _IN_TEXT.sub(_remember, data) if found is None else _remember(found)


def whole(url: str) -> str:
    """The address to ask, of one that was made from a hidden one. Raises UserError where its secrets are not known."""
    if HIDDEN not in url or (found := _ALONE.fullmatch(url)) is None:
        return url
    scheme, user, place, query = found.group("scheme", "user", "place", "query")
    if user == HIDDEN:
        user = _user_of(scheme, place)
    if query is not None and _count(query):
        begins = [start for start in _values if (scheme + place).startswith(start)]
        values = _values[max(begins, key=len)] if begins else []
        query = _filled(query, values) if len(values) == _count(query) else None
    if (user is None and found["user"] is not None) or (query is None and found["query"] is not None):
        raise UserError(
            f"{url} needs what its stars stand for, which is not kept", "give DATA again as it was given first"
        )
    return scheme + (f"{user}@" if user is not None else "") + place + (f"?{query}" if query is not None else "")


def _user_of(scheme: str, place: str) -> str | None:
    """Who asks: of the addresses of the same host that were given, the one that has most in common with this one."""
    host, address = f"{scheme}{place.partition('/')[0]}", scheme + place
    given = [start for start in _users if start == host or start.startswith(f"{host}/")]
    # Letter by letter, since braces cut names.
    return _users[max(given, key=lambda start: len(commonprefix([start, address])))] if given else None  # noqa: RUF071


def secrets() -> Secrets:
    """All that was hidden, for a process that is started rather than forked."""
    return dict(_users), dict(_values)


def know(others: Secrets) -> None:
    """Remembers what another process has hidden."""
    _users.update(others[0])
    _values.update(others[1])


def _hidden(found: re.Match[str]) -> tuple[str, str | None, list[str]]:
    """The address as it is shown; who asks, None where it does not say; and the values of its query that are hidden."""
    scheme, user, place, query = found.group("scheme", "user", "place", "query")
    text = scheme + (f"{HIDDEN}@" if user is not None else "") + place
    values: list[str] = []
    if query is None or not scheme.lower().startswith("http"):
        return text + ("" if query is None else f"?{query}"), user, values
    end = query[len(query.rstrip(_AFTER)) :]

    def without(part: re.Match[str]) -> str:
        value = part["value"]
        if not value or "{" in value or value.endswith(".tar"):
            return part[0]
        values.append(value)
        return part["name"] + HIDDEN

    return f"{text}?{_VALUE.sub(without, query.removesuffix(end))}{end}", user, values


def _remember(found: re.Match[str]) -> str:
    text, user, values = _hidden(found)
    start = found["scheme"] + found["place"].partition("{")[0]
    if user not in (None, HIDDEN):
        _users[start] = str(user)
    if any(value != HIDDEN for value in values):
        _values[start] = values
    return text


def _count(query: str) -> int:
    return sum(part["value"].rstrip(_AFTER) == HIDDEN for part in _VALUE.finditer(query))


def _filled(query: str, values: list[str]) -> str:
    """The query with the values in place of the stars."""
    left = iter(values)
    return _VALUE.sub(
        lambda part: (
            part["name"] + part["value"].replace(HIDDEN, next(left), 1)
            if part["value"].rstrip(_AFTER) == HIDDEN
            else part[0]
        ),
        query,
    )


def whole_address(data: str) -> str:
    """The same for the same DATA, from wherever it is named."""
    return data if "://" in data or is_own(data) else str(Path(data).resolve())
