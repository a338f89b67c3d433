"""Every problem of a configuration, each with its file, its key and the way out."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mrl.config import Config

Location = tuple[str | int, ...]
_ROUNDS = 5  # of taking wrong keys out and looking again
_KEYS_NAMED = 12


def validate(
    values: dict[str, Any], origins: Mapping[Location, str], source: str
) -> tuple[Config | None, list[str]]:
    """The configuration of ``values``, or None and a line for each problem.

    Keys that are wrong by themselves are taken out and the rest is looked at again, so that what does not fit
    together is said along with them.

    Args:
        values: as YAML gives them.
        origins: which file set each key.
        source: what is named where that is not known.
    """
    problems: list[str] = []
    removed: set[Location] = set()
    for _ in range(_ROUNDS):
        try:
            config = Config.model_validate(values)
            break
        except ValidationError as error:
            details = [
                d for d in _worth_saying(error) if not (d["type"] == "missing" and d["loc"] in removed)
            ]
            lines = [line for detail in details for line in _describe(detail, values, origins, source)]
            problems += [line for line in lines if line not in problems]
            wrong = [detail["loc"] for detail in details if _holds(values, detail["loc"])]
            if not wrong:
                return None, problems
            values = _without(values, wrong)
            removed |= set(wrong)
    return (None if problems else config), problems


def dotted(location: Location, values: Any = None) -> str:
    """``a.b.c``; an entry of a list goes by its name where ``values`` has one for it, or else by its number."""
    parts = []
    for part in location:
        values = _entry(values, part)
        name = values.get("name") if isinstance(part, int) and isinstance(values, Mapping) else None
        parts.append(str(part) if name is None else str(name))
    return ".".join(parts) or "(top level)"


def origin_of(location: Location, origins: Mapping[Location, str], default: str) -> str:
    """The file that set the key, or else the nearest part above it, or else one below it."""
    if not location:
        return default
    for length in range(len(location), 0, -1):
        if source := origins.get(location[:length]):
            return source
    return next((source for place, source in origins.items() if _is_below(place, location)), default)


def _worth_saying(error: ValidationError) -> list[Any]:
    """The details of ``error``, but for lists said to be too short because entries failed, which say it better."""
    details: list[Any] = list(error.errors())
    places = {detail["loc"] for detail in details}
    return [
        detail
        for detail in details
        if not (detail["type"] == "too_short" and any(_is_below(place, detail["loc"]) for place in places))
    ]


def _describe(
    detail: Any, values: Any, origins: Mapping[Location, str], default_source: str
) -> Iterable[str]:
    location: Location = detail["loc"]
    source = origin_of(location, origins, default_source)
    where = f"{source}: {dotted(location, values)}" if location else source
    kind, message = detail["type"], detail["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return [f"{where}: unknown key; {_hint(location)}"]
    if kind == "missing":
        return [f"{where}: this key is required"]
    if kind in _PLAIN:
        message = _PLAIN[kind].format(**detail.get("ctx", {}))
    given = detail.get("input")
    shown = "" if isinstance(given, (dict, list, tuple, BaseModel)) else f" (got {given!r:.80})"
    return [f"{where}: {line}{shown}" for line in message.split("\n")]


_PLAIN = {  # in the words of YAML, not of Python
    "too_short": "the list must have at least {min_length} in it",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "model_attributes_type": "expected keys and values",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}


def _hint(location: Location) -> str:
    known = _keys_at(location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    if len(known) > _KEYS_NAMED:
        return f"docs/configuration.md has the {len(known)} that there are"
    return f"known keys: {', '.join(known)}"


def _entry(values: Any, part: str | int) -> Any:
    if isinstance(values, Mapping):
        return values.get(part)
    if isinstance(values, list) and isinstance(part, int) and part < len(values):
        return values[part]
    return None


def _holds(values: Any, location: Location) -> bool:
    """Whether ``location`` is a key of a mapping in ``values``, which can be taken out."""
    for part in location[:-1]:
        values = _entry(values, part)
    return bool(location) and isinstance(values, Mapping) and location[-1] in values


def _without(values: dict[str, Any], locations: Iterable[Location]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for location in locations:
        node: Any = values
        for part in location[:-1]:
            node = _entry(node, part)
        if isinstance(node, dict):
            node.pop(location[-1], None)
    return values


def _is_below(place: Location, above: Location) -> bool:
    return len(place) > len(above) and place[: len(above)] == above


def _keys_at(location: Location) -> list[str]:
    """Known keys of the section at ``location``, found by walking the types."""
    kind: Any = Config
    for part in location:
        if isinstance(part, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = _section_in(field.annotation) if field else None
        elif not isinstance(part, int):
            kind = None
        if kind is None:
            return []
    return sorted(kind.model_fields)


def _section_in(annotation: Any) -> Any:
    """The section class inside an annotation such as ``tuple[StageConfig, ...]`` or ``DemoConfig | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list) or get_args(annotation):
        return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)
    return None
