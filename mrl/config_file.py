"""From YAML files and ``--set`` overrides to a :class:`mrl.config.Config`; all problems in one message."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values, find_dotenv

from mrl.config import Config
from mrl.config_problems import Location, dotted, origin_of, shown, unusable_values, validate
from mrl.errors import ConfigError

OVERRIDE_SOURCE = "--set"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET = {"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS"}  # words in names of variables
_MAX_BYTES = 1_000_000
_MOST_FILES = 20  # that extend one another
_MOST_PARTS = 10  # of a dotted key
_SHOWN = 100  # letters of an override
# What PyYAML's constructors raise for an explicit tag on a value that is none of its kind, like `!!bool maybe`.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of ``path`` with ``overrides`` (``"a.b=value"``) laid over it.

    Raises :class:`ConfigError` with every problem found, each with its file and key.
    """
    path = Path(path)
    source = shown(path)
    layers = _layers(path, seen=())
    values: dict[str, Any] = {}
    origins: dict[Location, str] = {}
    for layer_source, layer in layers:
        values = _merge(values, layer, layer_source, origins)
    problems = [problem for text in overrides if (problem := _override(values, text, origins))]
    values = _expand(values, (), origins, problems)
    return _checked(values, origins, source, problems)


def config_from_dict(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """A :class:`Config` from plain values (as a checkpoint stores them), with ``overrides`` laid over it.

    Raises :class:`ConfigError` with every problem found.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(source, [f"holds a {type(values).__name__} in place of a configuration"])
    if problems := unusable_values(dict(values), {}, source):
        raise ConfigError(source, problems)
    plain = deepcopy(dict(values))
    origins: dict[Location, str] = {}
    problems = [problem for text in overrides if (problem := _override(plain, text, origins))]
    return _checked(plain, origins, source, problems)


def load_environment(path: Path | None = None) -> None:
    """Set the variables of the file ``.env`` (default: the nearest above this program) that are not set yet.

    Raises ConfigError for a file that cannot be read, is larger than 1 MB, not UTF-8, or that holds a NUL.
    """
    path = Path(find_dotenv()) if path is None else path
    if not path.is_file():
        return
    text = _read_text(path, "a file of variables")
    if "\0" in text:
        raise ConfigError(shown(path), [f"line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds a NUL"])
    for name, value in dotenv_values(stream=StringIO(text)).items():
        if value is not None:
            os.environ.setdefault(name, value)


def _checked(
    values: dict[str, Any], origins: Mapping[Location, str], source: str, problems: list[str]
) -> Config:
    if unusable := unusable_values(values, origins, source):
        raise ConfigError(source, [*problems, *unusable])
    config, found = validate(values, origins, source)
    if config is None or problems:
        raise ConfigError(source, [*problems, *found])
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain values of ``config`` that YAML, JSON and checkpoints can hold."""
    return config.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Aliases let a small file stand for an enormous one, and a configuration has no use for them.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "YAML aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only


def _layers(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """The file and those that it extends, the most basic first."""
    source = shown(path)
    layer = _read_mapping(path, source)
    place = Path(os.path.realpath(path))
    if place in seen:
        raise ConfigError(source, ["extends: leads back to this file"])
    if len(seen) == _MOST_FILES:
        raise ConfigError(source, [f"extends: more than {_MOST_FILES} files extend one another"])
    base = layer.pop("extends", None)
    if base is None:
        return [(source, layer)]
    if not isinstance(base, str):
        raise ConfigError(source, [f"extends: expected the path of one YAML file, not {base!r:.80}"])
    base_path = Path(os.path.normpath(path.parent / base))
    if not os.path.isfile(base_path):
        raise ConfigError(source, [f"extends: there is no file {shown(base_path)}"])
    return [*_layers(base_path, (*seen, place)), (source, layer)]


def _read_mapping(path: Path, source: str) -> dict[str, Any]:
    text = _read_text(path, "a configuration", "; give a YAML file with --config")
    try:
        values = _parse_yaml(text)
    except _YAML_ERRORS as error:
        raise ConfigError(source, [_one_line(error)]) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(source, ["expected `key: value` lines at the top level"])
    if problems := unusable_values(values, {}, source):
        raise ConfigError(source, problems)
    return values


def _read_text(path: Path, what: str, advice: str = "") -> str:
    """The text of a small file; no more is read than it may have, whatever ``path`` is."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(shown(path), [f"larger than 1 MB: not {what}"])
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(shown(path), [f"is not a UTF-8 text file (line {line})"]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(shown(path), [f"cannot be read ({reason}){advice}"]) from None


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, RecursionError):
        problem = "nested too deeply"
    elif isinstance(error, yaml.YAMLError):
        problem = getattr(error, "problem", None) or str(error)
    else:
        problem = f"not readable as YAML: {error}"
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return shown(" ".join(f"{where}{problem}".split()), 300)


def _merge(below: Any, above: Any, source: str, origins: dict[Location, str], at: Location = ()) -> Any:
    """Mappings are merged key by key; anything else, lists included, is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        merged = dict(below)
        for key, value in above.items():
            merged[key] = _merge(below.get(key), value, source, origins, (*at, key))
        return merged
    origins[at] = source
    return above


def _override(values: dict[str, Any], text: str, origins: dict[Location, str]) -> str | None:
    """Apply one ``a.b=value``; returns the problem with it, if any. Lists take an index or a name."""
    path, equals, raw = text.partition("=")
    text = shown(text, _SHOWN)
    keys = path.strip().split(".")
    if not equals or not path.strip() or len(keys) > _MOST_PARTS:
        return f"--set {text}: expected key=value, e.g. --set stages.head.epochs=3"
    try:
        value = _parse_yaml(raw)
    except _YAML_ERRORS as error:
        return f"--set {text}: the value is not YAML: {_one_line(error)}"
    node: Any = values
    location: list[str | int] = []
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            index = _list_index(node, key)
            if index is None:
                names = [str(entry.get("name", i)) for i, entry in enumerate(node) if isinstance(entry, dict)]
                above = shown(".".join(keys[:depth]))
                return (
                    f"--set {text}: {above} has no entry {key!r:.80} (it has: {shown(', '.join(names), 300)})"
                )
            location.append(index)
            if last:
                node[index] = value
            node = node[index]
        elif isinstance(node, dict):
            location.append(key)
            if last:
                node[key] = value
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        else:
            return f"--set {text}: {shown('.'.join(keys[:depth]))} is a single value and has no keys"
    origins[tuple(location)] = OVERRIDE_SOURCE
    return None


def _list_index(entries: list[Any], key: str) -> int | None:
    if key.isdecimal() and len(key) < 10 and int(key) < len(entries):
        return int(key)
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("name") == key:
            return index
    return None


def _expand(node: Any, at: Location, origins: dict[Location, str], problems: list[str]) -> Any:
    """``${VAR}`` and ``${VAR:-default}`` in strings."""
    if isinstance(node, dict):
        return {key: _expand(value, (*at, key), origins, problems) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, (*at, index), origins, problems) for index, value in enumerate(node)]
    if not isinstance(node, str):
        return node

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if _SECRET & set(name.upper().split("_")):
            problems.append(
                f"{origin_of(at, origins, '')}: {dotted(at)}: {name} looks like a secret, and a configuration is "
                "written into logs and checkpoints; leave it in the environment"
            )
            return ""
        value = os.environ.get(name) or default
        if value is None:
            where = f"{origin_of(at, origins, '')}: {dotted(at)}"
            problems.append(
                f"{where}: the environment variable {name} is not set (or write ${{{name}:-default}})"
            )
            return ""
        return value

    return _VARIABLE.sub(replace, node)
