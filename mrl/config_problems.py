"""Every problem of a configuration, each with its file, its key and the way out."""

from __future__ import annotations

import copy
import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mrl.config import Config
from mrl.line_file import printable

Location = tuple[str | int, ...]
_ROUNDS = 5  # of taking wrong keys out and looking again
_KEYS_NAMED = 12
_MOST_PROBLEMS = 20  # listed; the rest is counted
_MOST_DETAILS = 300  # looked at in a round
_MOST_VALUES = 10_000  # the recipe of this repository has two hundred
_DEEPEST = 20
_LONGEST_PART = 255  # bytes between two slashes, the longest name of a file; nothing but paths comes near
_LONGEST = 4000  # bytes
_MOST_BITS = 64
_LINE = 400


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
    problems: dict[str, None] = {}  # in their order, each once
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
            problems.update(dict.fromkeys(lines))
            wrong = [detail["loc"] for detail in details if _holds(values, detail["loc"])]
            if not wrong:
                return None, first_few(problems)
            values = _without(values, wrong)
            removed |= set(wrong)
    return (None if problems else config), first_few(problems)


def unusable_values(values: Any, origins: Mapping[Location, str], source: str) -> list[str]:
    """A line for each value that no configuration has, whatever its key.

    These are too many values or too deep ones, letters that cannot be printed, and strings and numbers longer than
    any path or count. ``values`` are a tree; ``origins`` and ``source`` are those of :func:`validate`.
    """
    problems: dict[str, None] = {}
    pending: list[tuple[Location, Any]] = [((), values)]
    seen = 0
    while pending:
        location, node = pending.pop()
        seen += 1
        if seen + len(pending) > _MOST_VALUES:
            return [f"more than {_MOST_VALUES} values: not a configuration"]
        if len(location) > _DEEPEST:
            return [f"{dotted(location[:3])}: nested more than {_DEEPEST} levels deep"]
        wrong = _unusable(node)
        if isinstance(node, Mapping):
            pending.extend(((*location, key), value) for key, value in node.items())
            wrong = next((f"the key {key!r:.80} {why}" for key in node if (why := _unusable_key(key))), None)
        elif isinstance(node, list | tuple | set):
            pending.extend(((*location, place), value) for place, value in enumerate(node))
        if wrong is not None:
            problems[f"{origin_of(location, origins, source)}: {dotted(location)}: {wrong}"] = None
    return first_few(problems)


def shown(text: object, most: int = 300) -> str:
    """``text`` in a message: on one line, printable, ``most`` letters at most."""
    line = str(text)
    cut = line if len(line) <= most else line[: most - 3] + "..."
    return printable(cut)


def _unusable_key(key: object) -> str | None:
    if isinstance(key, bool) or not isinstance(key, str | int):
        return "is neither a word nor a number"
    return _unusable(key)


def _unusable(value: object) -> str | None:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return "is a number beyond 64 bits"
    if not isinstance(value, str):
        is_plain = isinstance(value, int | float | PurePath | Mapping | list | tuple | set) or value is None
        return (
            None
            if is_plain
            else f"is a {type(value).__name__:.40}, neither text nor a number; put text in quotes"
        )
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        return f"{value!r:.80} holds a control character"
    size = len(value.encode())
    if size > _LONGEST or max(len(part.encode()) for part in value.split("/")) > _LONGEST_PART:
        return (
            f"{value!r:.40} is {size} bytes long; no name of a file or folder is longer than {_LONGEST_PART}"
        )
    return None


def first_few(problems: Iterable[str]) -> list[str]:
    """The first few, short and printable, and how many more there are."""
    lines = [shown(problem, _LINE) for problem in problems]
    more = len(lines) - _MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:_MOST_PROBLEMS], f"and {more} more"]


def dotted(location: Location, values: Any = None) -> str:
    """``a.b.c``; an entry of a list goes by its name where ``values`` has one for it, or else by its number."""
    parts = []
    for part in location:
        values = _entry(values, part)
        name = values.get("name") if isinstance(part, int) and isinstance(values, Mapping) else None
        parts.append(shown(name if isinstance(name, str) else part, 80))
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
    details: list[Any] = error.errors(include_url=False)[:_MOST_DETAILS]
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
