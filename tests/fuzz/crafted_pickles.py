"""Pickles that no program writes: they claim tensors, call what they should not, nest and repeat."""

from __future__ import annotations

import struct

PROTOCOL = b"\x80\x02"


def tensor(size: int, stride: int, claimed: int = 1000) -> bytes:
    """One tensor of ``size`` floats in the storage ``data/0``, said to be of ``claimed`` floats."""
    storage = (
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + _number(claimed) + b"tQ"
    )
    shape = _number(size) + b"\x85" + _number(stride) + b"\x85"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return PROTOCOL + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + shape + hooks + b"tR."


def called(name: bytes, argument: int) -> bytes:
    """A call of ``name``, "module\\nname", with one number."""
    return PROTOCOL + b"c" + name + b"\n" + _number(argument) + b"\x85R."


def nested() -> bytes:
    """Lists in one another, 200,000 deep."""
    return PROTOCOL + b"]" * 200_000 + b"a" * 199_999 + b"."


def doubled() -> bytes:
    """A list of the same list twice, a hundred times over."""
    levels = (b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(100))
    return PROTOCOL + b"]q\x00" + b"".join(levels) + b"."


def _number(value: int) -> bytes:
    """``value`` as a long integer of eight bytes."""
    return b"\x8a\x08" + struct.pack("<q", value)
