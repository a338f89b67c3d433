"""A report as JSON text, and back.

Fields stand in the order of their classes, and numbers that are not finite are null (JSON has none); they come back
as NaN. Keys of dictionaries are text, so a prior is written as ``"0.01"``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mrl.errors import DataError
from mrl.evaluation.results import Report, ScoreCurves

SCHEMA = "redimnet-mrl evaluation"
VERSION = 1


@dataclass(frozen=True)
class _File:
    """What report.json holds below its schema and version."""

    report: Report
    curves: tuple[ScoreCurves, ...] = ()


def report_text(report: Report, curves: Sequence[ScoreCurves] = ()) -> str:
    """``report`` and ``curves`` as JSON; ASCII, so that any path of a file system can be in it."""
    content = {"schema": SCHEMA, "version": VERSION, **_plain(_File(report, tuple(curves)))}
    return _layout(content) + "\n"


def read_report(path: Path) -> Report:
    """The report in the report.json at ``path``; DataError where there is none that this version can read."""
    return _read(path).report


def read_curves(path: Path) -> tuple[ScoreCurves, ...]:
    """The curves in the report.json at ``path``; errors are those of `read_report`."""
    return _read(path).curves


def _read(path: Path) -> _File:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no report can be read from it ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: not the report.json of an evaluation")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: a report of version {content.get('version')}, this program reads {VERSION}; evaluate again"
        )
    try:
        built = _built(_File, content, "")
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}; evaluate again") from error
    assert isinstance(built, _File)
    return built


def _plain(value: Any) -> Any:
    """``value`` as dictionaries, lists, text and finite numbers."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _layout(value: Any, indent: str = "") -> str:
    """Indented JSON in which a list of numbers is one line."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [inner + _layout(item, inner) for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _built(kind: Any, value: Any, place: str) -> Any:
    """``value`` as an object of the annotated type ``kind``; ValueError names the ``place`` that does not fit."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _built(parts[0], value, place)
    if origin is tuple:
        _require(isinstance(value, list), place, "a list")
        return tuple(_built(parts[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), place, "an object")
        return {
            _key(parts[0], key, f"{place}.{key}"): _built(parts[1], item, f"{place}.{key}")
            for key, item in value.items()
        }
    if kind is float:
        _require(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)),
            place,
            "a number",
        )
        return math.nan if value is None else float(value)
    if kind in (int, str):
        _require(type(value) is kind, place, "a whole number" if kind is int else "text")
        return value
    _require(isinstance(value, dict), place, "an object")
    return kind(**_arguments(kind, value, place))


def _key(kind: Any, key: str, place: str) -> Any:
    try:
        return kind(key)
    except ValueError:
        raise ValueError(f"{place}: {key!r} is not a number") from None


def _arguments(kind: Any, value: Mapping[str, Any], place: str) -> dict[str, Any]:
    optional = {
        field.name
        for field in (fields(kind) if is_dataclass(kind) else ())
        if field.default is not MISSING or field.default_factory is not MISSING
    }
    arguments = {}
    for name, part in get_type_hints(kind).items():
        inner = f"{place}.{name}".lstrip(".")
        if name in value:
            arguments[name] = _built(part, value[name], inner)
        else:
            _require(name in optional, inner, "there")
    return arguments


def _require(fits: bool, place: str, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{place} is not {wanted}")
