"""Write docs/configuration.md, the reference of every key, from the configuration's own types and texts.

python scripts/config_reference.py            # writes the file
python scripts/config_reference.py --check    # exit code 1 where it is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mrl.config import Config

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
INTRODUCTION = """# Every key of the configuration

Made from the types in `mrl/config/` by `python scripts/config_reference.py`. A key that is not named here is an error,
with a suggestion. Sections in square brackets are lists. Recipes in `configs/` extend one another with `extends:`;
`--set a.b=value` overrides a key, and finds the entry of a list by its name or number.
"""
_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


def reference() -> str:
    """The whole document."""
    parts = [INTRODUCTION, _section("", Config)]
    return "\n".join(parts).rstrip() + "\n"


def _section(place: str, section: type[BaseModel]) -> str:
    """The table of one section, and the sections in it below."""
    title = f"## `{place}`" if place else "## The top level"
    rows, below = [], []
    for key, field in section.model_fields.items():
        inner, is_list = _inner_section(field.annotation)
        if inner is not None:
            name = f"[{key}]" if is_list else key
            below.append(_section(f"{place}.{name}" if place else name, inner))
        text = " ".join((field.description or "").split()).replace("``", "`").replace("|", "\\|")
        rows.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {text} |")
    table = "\n".join(["| key | value | default | |", "|---|---|---|---|", *rows])
    return "\n".join([title, "", table, "", *below])


def _inner_section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        inner, _ = _inner_section(argument)
        if inner is not None:
            return inner, get_origin(annotation) is tuple
    return None, False


def _kind(field: FieldInfo) -> str:
    bounds = []
    for bound in _bounds(field):
        attribute, sign = _BOUNDS[type(bound)]
        bounds.append(f"{sign} {getattr(bound, attribute):g}")
    return ", ".join([_type(field.annotation), *bounds])


def _bounds(field: FieldInfo) -> list[Any]:
    """The numeric bounds of a field, also where they stand inside ``... | None``."""
    found = list(field.metadata)
    for argument in get_args(field.annotation):
        found += getattr(argument, "__metadata__", ())
    flat = [
        bound for entry in found for bound in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
    ]
    return [bound for bound in flat if type(bound) in _BOUNDS]


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is Literal:
        return " \\| ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join("null" if a is type(None) else _type(a) for a in arguments)
    if origin is tuple:
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        return f"list of {_type(arguments[0])}" if many else f"[{', '.join(_type(a) for a in arguments)}]"
    if origin is dict:
        return f"{{{_type(arguments[0])}: {_type(arguments[1])}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(_plain(entry) for entry in value)}]`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    options = parser.parse_args(arguments)
    text = reference()
    if options.check:
        current = OUTPUT.read_text(encoding="utf-8") if OUTPUT.exists() else ""
        if current != text:
            print(f"{OUTPUT}: out of date; run python scripts/config_reference.py", file=sys.stderr)
            return 1
        return 0
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
