"""What --help says of a command's settings: each in the words below its field, with the values that it takes."""

import ast
import dataclasses
import inspect
import textwrap
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


def help_text(settings_type: type) -> ConstructorRegistry:
    """For tyro.cli, which would break lines where the source does, and show None as a value and a default."""
    registry = ConstructorRegistry()
    hints = get_type_hints(settings_type, include_extras=True)
    texts = field_texts(settings_type)

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is not settings_type:
            return None
        ordered = sorted(
            dataclasses.fields(settings_type), key=lambda one: bool(one.kw_only)
        )  # what all are asked last
        fields = (_shown(one, hints[one.name], texts.get(one.name, "")) for one in ordered)
        return StructConstructorSpec(settings_type, tuple(fields))

    registry.primitive_rule(_or_left_open)
    return registry


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
