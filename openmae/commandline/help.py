"""What --help says of a command's settings: each in the words below its field, with the values that it takes."""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, get_args, get_type_hints

from tyro.conf import arg
from tyro.constructors import (
    MISSING,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

OF_DATA = "data"
"""What the settings are called together that every command which takes DATA is asked."""


def help_text(settings_type: type) -> ConstructorRegistry:
    """For tyro.cli, which would break lines where the source does, show None as a value and a default, and list sixty
    settings without a heading."""
    registry = ConstructorRegistry()
    hints, texts = get_type_hints(settings_type, include_extras=True), field_texts(settings_type)
    found: dict[type, list[StructFieldSpec]] = {settings_type: []}  # under a heading, by a type that stands for it
    headings: dict[str, type] = {}
    for field, heading in _with_headings(settings_type):
        under = headings.setdefault(heading, type(heading, (), {})) if heading else settings_type
        found.setdefault(under, []).append(_shown(field, hints[field.name], texts.get(field.name, "")))
    found[settings_type] += (StructFieldSpec(heading, under, MISSING, "") for heading, under in headings.items())

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        return StructConstructorSpec(info.type, tuple(found[info.type])) if info.type in found else None

    registry.primitive_rule(_or_left_open)
    return registry


def _with_headings(settings_type: type) -> "Iterator[tuple[dataclasses.Field[Any], str]]":
    """Each field, and what it stands under: GROUPS of its settings' module says at which field a heading begins. What
    all commands are asked comes last."""
    groups = getattr(sys.modules[settings_type.__module__], "GROUPS", {})
    heading = ""
    for field in (one for one in dataclasses.fields(settings_type) if not one.kw_only):
        heading = groups.get(field.name, heading)
        yield field, heading
    yield from ((field, OF_DATA) for field in dataclasses.fields(settings_type) if field.kw_only)


def field_texts(settings_type: type) -> dict[str, str]:
    """What each field of a dataclass is for, in one line: the text below it, or that of a type which others share."""
    found: dict[str, str] = {}
    for field, hint in get_type_hints(settings_type, include_extras=True).items():
        for note in getattr(hint, "__metadata__", ()):
            if shared := getattr(note, "help", None):
                found[field] = shared
    for one in reversed(settings_type.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(declared, ast.ClassDef)
        for pair in pairwise(declared.body):
            match pair:
                case ast.AnnAssign(target=name), ast.Expr(value=ast.Constant(value=str(text))):
                    found[ast.unparse(name)] = " ".join(text.split())
    return found


def _shown(field: "dataclasses.Field[Any]", hint: Any, text: str) -> StructFieldSpec:
    """What is left open has no default that a user would give."""
    is_required = field.default is dataclasses.MISSING
    hint = Annotated[hint, arg(prefix_name=False)]  # the flag does not begin with the heading
    if is_required or field.default in (None, ()):
        hint = Annotated[hint, arg(help_behavior_hint="(required)" if is_required else "")]
    return StructFieldSpec(field.name, hint, MISSING if is_required else field.default, text)


def _or_left_open(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Of a type or None, what that type takes: tyro's own rule shows None among the values, and braces around them."""
    kinds = get_args(info.type)
    if type(None) not in kinds:
        return None
    kind = next(one for one in kinds if one is not type(None))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    assert isinstance(spec, PrimitiveConstructorSpec)
    metavar = "TEXT" if kind is str else spec.metavar.removeprefix("[").removesuffix("]")  # it takes one word or more
    return dataclasses.replace(spec, metavar=metavar, is_instance=lambda _: True, str_from_instance=lambda _: [""])
