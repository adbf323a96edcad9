"""What --help says of a command's settings: each in the words below its field, with the values that it takes."""

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import arg
from tyro.constructors import MISSING, ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def help_text(settings_type: type) -> ConstructorRegistry:
    """For tyro.cli, which would break lines where the source does, and show None as a value and a default."""
    registry = ConstructorRegistry()
    hints = get_type_hints(settings_type, include_extras=True)
    texts = field_texts(settings_type)

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is not settings_type:
            return None
        fields = (
            StructFieldSpec(one.name, _shown(hints[one.name], one.default), _default(one), texts.get(one.name, ""))
            for one in dataclasses.fields(settings_type)
        )
        return StructConstructorSpec(settings_type, tuple(fields))

    return registry


def field_texts(settings_type: type) -> dict[str, str]:
    """The text below each field of a dataclass, in one line."""
    found = {}
    for one in reversed(settings_type.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in pairwise(declared.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def _default(field: "dataclasses.Field[Any]") -> Any:
    return MISSING if field.default is dataclasses.MISSING else field.default


def _shown(hint: Any, default: Any) -> Any:
    """The type, with what tyro is to show of it: what is left open has no default that a user would give."""
    if default is dataclasses.MISSING:
        return Annotated[hint, arg(help_behavior_hint="(required)")]
    if default not in (None, ()):
        return hint
    notes = getattr(hint, "__metadata__", ())
    if default is None and not any(getattr(note, "metavar", None) for note in notes):
        return Annotated[hint, arg(metavar=_values(hint), help_behavior_hint="")]
    return Annotated[hint, arg(help_behavior_hint="")]


def _values(hint: Any) -> str:
    """INT, {a,b}, or the name that the type gives itself."""
    for note in getattr(hint, "__metadata__", ()):
        if name := getattr(note, "metavar", None):
            return str(name)
    if hasattr(hint, "__metadata__"):
        return _values(hint.__origin__)
    parts = get_args(hint)
    if type(None) in parts:
        return _values(next(part for part in parts if part is not type(None)))
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, parts))}}}"
    if get_origin(hint) is tuple:
        inner = _values(parts[0])
        return f"{inner} [{inner} ...]" if parts[-1] is ... else " ".join(map(_values, parts))
    return _NAMES[hint]
