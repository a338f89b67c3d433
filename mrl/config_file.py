"""From YAML files and ``--set`` overrides to a :class:`mrl.config.Config`; all problems in one message."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from mrl.config import Config
from mrl.config_problems import Location, dotted, origin_of, validate
from mrl.errors import ConfigError

OVERRIDE_SOURCE = "--set"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MAX_CONFIG_BYTES = 1_000_000


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of ``path`` with ``overrides`` (``"a.b=value"``) laid over it.

    Raises :class:`ConfigError` with every problem found, each with its file and key.
    """
    path = Path(path)
    layers = _layers(path, seen=())
    values: dict[str, Any] = {}
    origins: dict[Location, str] = {}
    for source, layer in layers:
        values = _merge(values, layer, source, origins)
    problems = [problem for text in overrides if (problem := _override(values, text, origins))]
    values = _expand(values, (), origins, problems)
    config, found = validate(values, origins, str(path))
    if config is None or problems:
        raise ConfigError(str(path), [*problems, *found])
    return config


def config_from_dict(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """A :class:`Config` from plain values (as a checkpoint stores them), with ``overrides`` laid over it.

    Raises :class:`ConfigError` with every problem found.
    """
    plain = deepcopy(dict(values))
    origins: dict[Location, str] = {}
    problems = [problem for text in overrides if (problem := _override(plain, text, origins))]
    config, found = validate(plain, origins, source)
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
    if path.resolve() in seen:
        raise ConfigError(str(path), ["extends: leads back to this file"])
    layer = _read_mapping(path)
    base = layer.pop("extends", None)
    if base is None:
        return [(str(path), layer)]
    if not isinstance(base, str):
        raise ConfigError(str(path), [f"extends: expected the path of one YAML file, not {base!r}"])
    base_path = Path(os.path.normpath(path.parent / base))
    if not base_path.is_file():
        raise ConfigError(str(path), [f"extends: there is no file {base_path}"])
    return [*_layers(base_path, (*seen, path.resolve())), (str(path), layer)]


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(str(path), ["larger than 1 MB: not a configuration"])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(str(path), [f"cannot be read ({reason}); give a YAML file with --config"]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["is not a UTF-8 text file"]) from None
    try:
        values = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [_one_line(error)]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [f"not readable as YAML: {_one_line(error)}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(str(path), ["expected `key: value` lines at the top level"])
    return values


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return " ".join(f"{where}{problem}".split())


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
    if not equals or not path.strip():
        return f"--set {text}: expected key=value, e.g. --set stages.head.epochs=3"
    try:
        value = _parse_yaml(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"--set {text}: the value is not YAML: {_one_line(error)}"
    keys = path.strip().split(".")
    node: Any = values
    location: list[str | int] = []
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            index = _list_index(node, key)
            if index is None:
                names = [str(entry.get("name", i)) for i, entry in enumerate(node) if isinstance(entry, dict)]
                above = ".".join(keys[:depth])
                return f"--set {text}: {above} has no entry {key!r} (it has: {', '.join(names)})"
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
            return f"--set {text}: {'.'.join(keys[:depth])} is a single value and has no keys"
    origins[tuple(location)] = OVERRIDE_SOURCE
    return None


def _list_index(entries: list[Any], key: str) -> int | None:
    if key.isdecimal() and int(key) < len(entries):
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
        value = os.environ.get(name) or default
        if value is None:
            where = f"{origin_of(at, origins, '')}: {dotted(at)}"
            problems.append(
                f"{where}: the environment variable {name} is not set (or write ${{{name}:-default}})"
            )
            return ""
        return value

    return _VARIABLE.sub(replace, node)
