"""HTML and SVG, put together so that text is always escaped."""

from __future__ import annotations

from html import escape

_WITHOUT_END = {"meta"}


class Markup(str):
    """Text that is markup already; any other text is escaped where it is used."""


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """``<name attributes>children</name>``.

    Attribute names: a trailing underscore is dropped (``class_``), others become hyphens (``aria_label``). An
    attribute that is None is left out; numbers are written with at most two decimals.
    """
    start = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _WITHOUT_END:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{join(*children)}</{name}>")


def join(*parts: str) -> Markup:
    """``parts`` one after the other, escaped where they are not markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(printable(part)) for part in parts))


def printable(text: str) -> str:
    """``text`` without what UTF-8 cannot hold: a path's undecodable bytes become ``\\udc..`` in letters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return printable(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
