"""Keywords of a call -> the settings of a command, with the same words for what is wrong with them."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature, cleandoc
from keyword import iskeyword
from numbers import Integral, Real
from pathlib import Path
from textwrap import fill
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from openmae.commandline.flags import with_flags
from openmae.commandline.help import field_texts
from openmae.commandline.refusal import has_place
from openmae.commandline.words import suggestion
from openmae.console.terminal import worded
from openmae.console.words import printable
from openmae.errors import Interrupted, NotWritten, UserError
from openmae.files.address import hide
from openmae.files.foreign_caches import place_foreign_caches
from openmae.own import Own

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

_FLAG = re.compile(r"--(no-)?([a-z][a-z0-9-]*)")
_COMMAND = re.compile(  # quoted for a shell
    r"(?:openmae [a-z]|torchrun |pip install |tensorboard -|mlflow ui |trackio show |wandb sync ).*"
)
_NOT_TAKEN = object()


def settings_of(call: str, kind: type[S], given: Mapping[str, Any]) -> S:
    """The settings that these keywords make. Numbers may be numpy's, places strings or paths (a Run is one), several
    values a list. Raises UserError for a name that is none, a value that is none, and where one is missing."""
    hints = get_type_hints(kind, include_extras=True)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    found = {}
    for name, value in given.items():
        if name not in hints:
            raise UserError(
                f"openmae.{call} has no setting '{name}'{suggestion(name, known)}", f"see help(openmae.{call})"
            )
        found[name] = _taken(name, value, hints[name])
    needed = [field.name for field in fields(kind) if field.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in found]:
        raise UserError(f"openmae.{call} needs {' and '.join(missing)}", f"see help(openmae.{call})")
    return kind(**found)


def _taken(name: str, value: Any, hint: Any) -> Any:
    """The value as the setting has it. Raises UserError where it is of another type."""
    if isinstance(value, str | os.PathLike) and not os.fspath(value):
        raise UserError(f"{name} is empty", "give a value")
    for kind in _kinds(hint):
        if (taken := _as(value, kind)) is not _NOT_TAKEN:
            return taken
    advice = " or ".join(dict.fromkeys(_said(kind) for kind in _kinds(hint)))
    raise UserError(f"{name} is {value!r}", f"give {advice}")


def _kinds(hint: Any) -> list[Any]:
    """What a hint allows: types, literals, tuples, None."""
    if hasattr(hint, "__metadata__"):
        return _kinds(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    return [hint]


def _as(value: Any, kind: Any) -> Any:
    """The value as one of this kind, or _NOT_TAKEN."""
    if isinstance(value, Own):
        if get_origin(kind) is tuple and get_args(kind) == (str, ...):
            return (value,)
        return value if kind is str or get_origin(kind) is Literal else _NOT_TAKEN
    if get_origin(kind) in (Union, UnionType):
        return next((taken for one in _kinds(kind) if (taken := _as(value, one)) is not _NOT_TAKEN), _NOT_TAKEN)
    if kind is type(None):
        return None if value is None else _NOT_TAKEN
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else _NOT_TAKEN
    if get_origin(kind) is tuple:
        return _as_tuple(value, get_args(kind))
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else _NOT_TAKEN
    if kind is int:
        return int(value) if isinstance(value, Integral) else _NOT_TAKEN
    if kind is float:
        return float(value) if isinstance(value, Real) else _NOT_TAKEN
    if kind is Path:
        return Path(value) if isinstance(value, str | os.PathLike) else _NOT_TAKEN
    if isinstance(value, str | os.PathLike):
        return hide(os.fspath(value))
    return f"{value:g}" if isinstance(value, Real) else _NOT_TAKEN  # blocks=4, layer=6


def _as_tuple(value: Any, parts: tuple[Any, ...]) -> Any:
    """Of several values, or of one where any number will do."""
    is_open = parts[-1] is ...
    values = list(value) if isinstance(value, list | tuple) or hasattr(value, "__array__") else [value]
    if not is_open and len(values) != len(parts):
        return _NOT_TAKEN
    taken = [_as(one, parts[0] if is_open else part) for one, part in zip(values, _each(parts, values), strict=True)]
    return _NOT_TAKEN if any(one is _NOT_TAKEN for one in taken) else tuple(taken)


def _each(parts: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    return (parts[0],) * len(values) if parts[-1] is ... else parts


def _said(kind: Any) -> str:
    """What a value of this kind is called."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        count = "several" if parts[-1] is ... else str(len(parts))
        return f"a tuple of {count} {_each_said(parts[0])}"
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text or a path", Path: "a path"}
    return names.get(kind, "None")


def _each_said(kind: Any) -> str:
    """Several values of this kind."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_each_said, get_args(kind)))
    return "numbers" if kind in (int, float) else "texts"


# ---------------------------------------------------------------- sentences


def with_keywords(sentence: str) -> str:
    """What a command says, in Python's words: `--img-size` and backquoted settings become img_size, the same command
    the same call; whole commands stay."""
    sentence = with_flags(sentence).replace("the same command", "the same call").replace("any flag", "any keyword")
    return "\n".join(map(_line, sentence.split("\n")))


def _line(text: str) -> str:
    shell = _COMMAND.search(text)
    end = len(text) if shell is None else shell.start()
    return _FLAG.sub(lambda found: _keyword(found[2]) + "=False" * bool(found[1]), text[:end]) + text[end:]


def _keyword(flag: str) -> str:
    """Of a flag without its dashes; `from` is a word of Python's own."""
    name = flag.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


# ---------------------------------------------------------------- help


def taking(kind: type) -> Callable[[F], F]:
    """Makes a function one to call: it has the signature and the help of the settings that it takes beside its own
    parameters, what its job prints and refuses is worded as Python's users read it, and a refusal has no frames of
    ours."""

    def described(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def call(*given: Any, **settings: Any) -> Any:
            try:
                place_foreign_caches()
                with worded(lambda text: printable(with_keywords(text))):
                    return function(*given, **settings)
            except UserError as error:
                refusal: Exception = UserError(with_keywords(error.what), with_keywords(error.advice))
            except NotWritten as error:
                refusal = NotWritten(with_keywords(str(error)))
            except Interrupted as stopped:
                refusal = Interrupted(with_keywords(str(stopped)), stopped.step, stopped.code)
            raise refusal

        signature, texts = _signature(function, kind), field_texts(kind)
        call.__signature__ = signature  # type: ignore[attr-defined]
        said = (f"{name}: {with_keywords(texts[name])}" for name in signature.parameters if name in texts)
        lines = "\n".join(fill(one, 100, initial_indent="    ", subsequent_indent=" " * 8) for one in said)
        about = cleandoc(function.__doc__ or "")  # from Python 3.13 on it comes without the function's indent
        call.__doc__ = f"{about}\n\nSettings:\n\n{lines}\n"
        return call

    return described


def _signature(function: Callable[..., Any], kind: type) -> Signature:
    """Of a function's own parameters, then of the settings that have a place, then of all others as keywords."""
    own = Signature.from_callable(function)
    taken = [one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    hints, places = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for field in sorted(fields(kind), key=lambda one: one.kw_only is True):  # what all commands are asked comes last
        if field.name not in own.parameters:
            where = Parameter.POSITIONAL_OR_KEYWORD if has_place(places[field.name]) else Parameter.KEYWORD_ONLY
            default = Parameter.empty if field.default is MISSING else field.default
            taken.append(Parameter(field.name, where, default=default, annotation=hints[field.name]))
    taken.sort(key=lambda one: one.kind)
    return Signature(taken, return_annotation=own.return_annotation)
