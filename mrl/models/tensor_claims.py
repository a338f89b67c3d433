"""What an unpickled checkpoint claims, held against the file that it came from.

A few bytes can claim a great deal: a tensor whose strides are zero repeats one number without end, lists that hold
the same list twice double with each level, and some of the classes that PyTorch's unpickler allows make any number of
bytes from a number. Nothing here copies or expands anything.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

MOST_PICKLE_BYTES = 64 << 20
"""Of a checkpoint's pickle, which holds everything but the tensors' numbers: millions of speakers' names. It makes
objects of at most some ten times its size."""
_MOST_CONTAINERS = 500_000
_MOST_VALUES = 20_000_000
_DEEPEST = 100
_MOST_BITS = 1024  # of an integer; Python refuses to print those of more than 4300 digits
_ALIASES = 64  # how often tensors may share a storage, on average
_PLAIN = (str, int, float, bool, complex, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, list, tuple, set, torch.Size)

# Opcodes of one byte that make an object of sixty: (, ], }, tuples of one, sets.
_CONTAINER_OPCODES = (b"(", b"]", b"}", b"\x85", b"\x8f")
# Names that PyTorch's unpickler resolves, and that no checkpoint of plain tensors needs: bytearray(n) and Tensor(n)
# allocate n bytes, encode takes a codec of quadratic cost. A name stands on a line of its own in a pickle.
_NEEDLESS = re.compile(
    rb"\n(bytearray|Counter|encode|[A-Za-z0-9]*Tensor|UntypedStorage|TypedStorage|_get_layout"
    rb"|_rebuild_(?!tensor_v2\n|parameter\n)\w+)\n"
)


def require_harmless_pickle(pickled: bytes) -> None:
    """ValueError for a ``pickled`` content too large, or that names what makes memory out of numbers."""
    if len(pickled) > MOST_PICKLE_BYTES:
        raise ValueError(
            f"it describes its content in {len(pickled)} bytes, at most {MOST_PICKLE_BYTES} are read"
        )
    if sum(pickled.count(opcode) for opcode in _CONTAINER_OPCODES) > _MOST_CONTAINERS:
        raise ValueError(f"it is made of more than {_MOST_CONTAINERS} parts")
    if found := _NEEDLESS.search(pickled):
        raise ValueError(f"it holds {found[1].decode()}, which plain tensors and options do not need")


def require_honest(content: Any, file_bytes: int) -> None:
    """ValueError where ``content`` holds other things than plain values and tensors, or more than its file can.

    Args:
        content: what was unpickled.
        file_bytes: size of the file. The storages of all tensors are no larger, and the tensors together no more than
            64 times as large, however they share storages.
    """
    storages: dict[int, int] = {}
    claimed = 0
    for tensor in _tensors(content):
        if problem := _problem(tensor):
            raise ValueError(problem)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        claimed += tensor.numel() * tensor.element_size()
    if sum(storages.values()) > file_bytes or claimed > _ALIASES * file_bytes:
        raise ValueError(f"its tensors claim {claimed} bytes, the file has {file_bytes}")


def _problem(tensor: Tensor) -> str | None:
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"it holds a {type(tensor).__name__:.60}, not a plain tensor"
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return f"it holds a tensor that is not plain ({tensor.layout}, {tensor.device.type}, {tensor.dtype})"
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        return f"a tensor of shape {list(tensor.shape)!s:.100} claims {claimed} bytes, and {held} are there"
    return None


def _tensors(content: Any) -> Iterator[Tensor]:
    """Each tensor once. Raises ValueError for what is not plain, too deep, or too much when written out.

    Sizes are added up from the leaves, each object once, so that what repeats costs nothing here.
    """
    written_out: dict[int, tuple[int, int]] = {}  # by identity: values, levels
    stack: list[tuple[Any, bool]] = [(content, False)]
    under_way: set[int] = set()
    while stack:
        node, is_done = stack.pop()
        if id(node) in written_out or isinstance(node, _PLAIN):
            continue
        if isinstance(node, Tensor):
            written_out[id(node)] = (1, 1)
            yield node
            continue
        plain, parts = _parts(node)
        if not is_done:
            if id(node) in under_way:
                raise ValueError("it holds a list or mapping that holds itself")
            under_way.add(id(node))
            stack.append((node, True))
            stack.extend((part, False) for part in parts)
            continue
        under_way.discard(id(node))
        values = 1 + plain + sum(written_out[id(part)][0] for part in parts)
        levels = 1 + max((written_out[id(part)][1] for part in parts), default=0)
        if values > _MOST_VALUES or levels > _DEEPEST:
            raise ValueError(
                f"it repeats or nests its parts without measure ({values:.3g} values, {levels} levels)"
            )
        written_out[id(node)] = (values, levels)


def _parts(node: Any) -> tuple[int, list[Any]]:
    """How many plain values a container holds, and what else."""
    if type(node) not in _CONTAINERS:
        raise ValueError(f"it holds a {type(node).__name__:.60}, not plain values")
    plain, parts = 0, []
    for part in chain(node.keys(), node.values()) if isinstance(node, dict) else node:
        if not isinstance(part, _PLAIN):
            parts.append(part)
            continue
        plain += 1
        if isinstance(part, int) and part.bit_length() > _MOST_BITS:
            raise ValueError(f"it holds a number of {part.bit_length()} bits")
    if attributes := getattr(node, "__dict__", None):
        parts.append(_module_versions(attributes))
    return plain, parts


def _module_versions(attributes: Mapping[str, Any]) -> Any:
    """The versions of modules that torch keeps beside a state_dict; its loading would trip over anything else."""
    versions = attributes.get("_metadata")
    if set(attributes) != {"_metadata"} or not isinstance(versions, dict):
        raise ValueError("a mapping has attributes that are not the versions of modules")
    for entry in versions.values():
        if not isinstance(entry, dict) or type(entry.get("version", 1)) is not int:
            raise ValueError("the versions of its modules are not numbers")
    return versions
