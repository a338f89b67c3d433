"""Damage to what YAML, JSON and checkpoints hold, seeded: mappings, lists, plain values, tensors.

Each function returns something new; what it was given stays as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.odd_values import VALUES

Place = tuple[Any, ...]
"""The keys and numbers that lead from a tree to one of its parts."""

DEEPEST = 30  # in lists; a place below is not damaged
MOST_PLACES = 5000
NEW_KEYS = ("x", "name", "dim", "", "a.b", "k" * 300, "\x1b", "\ud800")


def mutated_tree(rng: random.Random, tree: Any, times: int = 3) -> Any:
    """``tree`` of mappings, lists and leaves with up to ``times`` pieces of damage to its parts."""
    for _ in range(rng.randint(1, times)):
        place = rng.choice(_places(tree))
        tree = _changed(tree, place, partial(_damaged, rng, tree))
    return tree


def _places(tree: Any, at: Place = ()) -> list[Place]:
    if isinstance(tree, dict):
        parts = list(tree.items())
    elif isinstance(tree, list | tuple) and len(at) < DEEPEST:
        parts = list(enumerate(tree))
    else:
        parts = []
    below = (place for key, value in parts for place in _places(value, (*at, key)))
    return [at, *islice(below, MOST_PLACES - 1)]


def _at(tree: Any, place: Place) -> Any:
    for part in place:
        tree = tree[part]
    return tree


def _changed(tree: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A copy of ``tree`` in which ``change`` has been applied at ``place``; what does not change is shared."""
    if not place:
        return change(tree)
    part, rest = place[0], place[1:]
    if isinstance(tree, dict):
        return {key: _changed(value, rest, change) if key == part else value for key, value in tree.items()}
    return [_changed(value, rest, change) if number == part else value for number, value in enumerate(tree)]


def _damaged(rng: random.Random, whole: Any, node: Any) -> Any:
    if isinstance(node, Tensor) and rng.random() < 0.8:
        return _mutated_tensor(rng, node)
    if isinstance(node, dict) and node and rng.random() < 0.7:
        return _damaged_mapping(rng, node)
    if isinstance(node, list | tuple) and node and rng.random() < 0.7:
        return _damaged_list(rng, list(node))
    choices: list[Callable[[], Any]] = [
        lambda: rng.choice(VALUES),
        lambda: rng.choice(VALUES),
        lambda: [node],
        lambda: {"name": node},
        lambda: str(node)[:200] if not isinstance(node, str) else len(node),
        lambda: -node if isinstance(node, int | float) else node,
        lambda: node * 1000 if isinstance(node, int | float | str) and not isinstance(node, bool) else node,
        lambda: [node] * rng.choice((2, 300)),
        lambda: _at(whole, rng.choice(_places(whole))),
    ]
    return rng.choice(choices)()


def _damaged_mapping(rng: random.Random, node: dict[Any, Any]) -> dict[Any, Any]:
    key = rng.choice(list(node))
    rest = {other: value for other, value in node.items() if other != key}
    choices: list[Callable[[], dict[Any, Any]]] = [
        lambda: rest,
        lambda: {**rest, f"{key}s": node[key]},
        lambda: {**node, rng.choice(NEW_KEYS): rng.choice(VALUES)},
        lambda: {**node, rng.choice([1, 2**70, None, True, 1.5]): node[key]},
        lambda: {**node, key: rng.choice(VALUES)},
        lambda: {**node, key: node[rng.choice(list(node))]},
        dict,
    ]
    return rng.choice(choices)()


def _damaged_list(rng: random.Random, node: list[Any]) -> list[Any]:
    place = rng.randrange(len(node))
    choices: list[Callable[[], list[Any]]] = [
        lambda: node[:place] + node[place + 1 :],
        lambda: [*node, node[place]],
        lambda: node[::-1],
        lambda: [*node[:place], rng.choice(VALUES), *node[place + 1 :]],
        lambda: node * rng.choice((2, 500)),
        list,
    ]
    return rng.choice(choices)()


def _mutated_tensor(rng: random.Random, tensor: Tensor) -> Any:
    """A tensor of another type, shape, size or with other numbers; now and then none at all."""
    choices: list[Callable[[], Any]] = [
        *(tensor.double, tensor.half, tensor.long, tensor.bool),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.reshape(-1),
        lambda: tensor[None],
        lambda: tensor.reshape(-1)[:1],
        lambda: tensor.new_zeros(0),
        lambda: torch.tensor(1.0),
        lambda: torch.zeros(1).expand(10**12),
        lambda: torch.zeros(1).expand(tensor.shape) if tensor.ndim else tensor,
        lambda: torch.zeros(3, 3).to_sparse(),
        lambda: torch.empty(10**12, device="meta"),
        *(partial(torch.full, tensor.shape, value) for value in (float("nan"), float("inf"), -1e38)),
        lambda: torch.zeros(tensor.shape),
        lambda: torch.nn.Parameter(tensor.float()),
        lambda: tensor.tolist() if tensor.numel() < 100 else [1.0],
        lambda: rng.choice(VALUES),
    ]
    return rng.choice(choices)()
