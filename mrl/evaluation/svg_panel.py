"""Plots as SVG without a plotting library: axes, lines, marks. Small, sharp at any size, coloured by the page's style.

What a shape looks like is a class (``series0``, ``dash1``) that the page's style sheet defines, so one drawing serves
a bright screen, a dark one and paper. Lengths are units of the drawing; the page scales it to its own width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.evaluation.markup import Markup, element, join

LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 24.0, 40.0  # room around the panel
_LETTER = 7.0  # width of a digit
NUM_SERIES = 8  # colours, dashes and marks of the style sheet, used again beyond


def _same(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class Axis:
    """``low`` and ``high`` are values at the ends; ``ticks`` are labelled values, those that fit."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    transform: Callable[[ArrayLike], NDArray[np.float64]] = _same  # values to what the axis is linear in

    def shares(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where along the axis ``values`` stand, 0 at ``low`` and 1 at ``high``."""
        start, end = self.transform([self.low, self.high])
        return np.asarray((self.transform(values) - start) / (end - start))


@dataclass(frozen=True)
class Panel:
    """A pair of axes in a drawing of ``width`` x ``height`` units."""

    x: Axis
    y: Axis
    width: float = 440.0
    height: float = 300.0

    @property
    def inner_width(self) -> float:
        return self.width - LEFT - RIGHT

    @property
    def inner_height(self) -> float:
        return self.height - TOP - BOTTOM

    def place(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Units from the panel's upper left corner."""
        return self.x.shares(x) * self.inner_width, (1.0 - self.y.shares(y)) * self.inner_height

    def drawing(self, label: str, inside: Sequence[str], above: Sequence[str] = ()) -> Markup:
        """The whole drawing: ``inside`` is cut off at the panel's edges, ``above`` is not; ``label`` is read aloud."""
        # An inner svg element cuts off what lies outside it without an id, which would have to be unique in the page.
        cut = element(
            "svg",
            *inside,
            x=LEFT,
            y=TOP,
            width=self.inner_width,
            height=self.inner_height,
        )
        return element(
            "svg",
            self._frame(),
            cut,
            element("g", *above, transform=f"translate({LEFT:g} {TOP:g})"),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=label,
        )

    def _frame(self) -> Markup:
        """Grid lines, tick labels and the axes' names."""
        right, bottom = LEFT + self.inner_width, TOP + self.inner_height
        parts = []
        last_end = -np.inf
        for value, text in self.x.ticks:
            x = LEFT + float(self.x.shares(value)) * self.inner_width
            parts.append(_line(x, TOP, x, bottom, "grid"))
            half = _LETTER * len(text) / 2
            if x - half > last_end + 4:  # a label that would touch the one before is left out
                parts.append(_text(x, bottom + 18, text, "middle"))
                last_end = x + half
        for value, text in self.y.ticks:
            y = TOP + (1.0 - float(self.y.shares(value))) * self.inner_height
            parts.append(_line(LEFT, y, right, y, "grid"))
            parts.append(_text(LEFT - 6, y + 4.5, text, "end"))
        parts.append(_line(LEFT, bottom, right, bottom, "axis"))
        parts.append(_text(LEFT + self.inner_width / 2, self.height - 6, self.x.label, "middle"))
        parts.append(_text(4, 14, self.y.label, "start"))
        return join(*parts)


def polyline(x: ArrayLike, y: ArrayLike, class_: str) -> Markup:
    """A line through points given in units; those that are not finite are left out."""
    pairs = zip(_same(x), _same(y), strict=True)
    points = (f"{_short(right)},{_short(down)}" for right, down in pairs if np.isfinite([right, down]).all())
    return element("polyline", points=" ".join(points), class_=class_)


def vertical(x: float, y: float, other_y: float, class_: str) -> Markup:
    return _line(x, y, x, other_y, class_)


def bar(x: float, y: float, other_y: float, series: int) -> Markup:
    """An interval of a series."""
    return vertical(x, y, other_y, f"bar series{_colour(series)}")


def mark(x: float, y: float, series: int, size: float = 5.0) -> Markup:
    """The mark of a series around a point: a shape of its own, so that colour is not needed to tell it."""
    corners = _MARKS[(series + 3 * (series // NUM_SERIES)) % len(_MARKS)]
    class_ = f"mark series{_colour(series)}"
    if corners is None:
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    points = " ".join(f"{_short(x + size * right)},{_short(y + size * down)}" for right, down in corners)
    return element("polygon", points=points, class_=class_)


def line_class(series: int) -> str:
    """The class of a series' line: its colour and its dashes."""
    return f"line series{_colour(series)} dash{(series + 3 * (series // NUM_SERIES)) % NUM_SERIES}"


def _colour(series: int) -> int:
    """Colours come again from the second on: the first series keeps its own."""
    return series if series < NUM_SERIES else 1 + (series - 1) % (NUM_SERIES - 1)


def threshold_class(place: int) -> str:
    """The class of the line at a threshold: told apart by its dashes."""
    return f"threshold dash{place % NUM_SERIES}"


def swatch(content: Sequence[str]) -> Markup:
    """A sample for a legend, 34 x 14 units; it says nothing that the words beside it do not."""
    return element("svg", *content, viewBox="0 0 34 14", class_="swatch", aria_hidden="true")


def series_swatch(series: int) -> Markup:
    return swatch([polyline([0, 34], [7, 7], line_class(series)), mark(17, 7, series)])


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten apart) within ``low`` and ``high``."""
    rough = (high - low) / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(np.log(factor * power / rough)))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # Adding 0.0 makes a negative zero positive.
    return [float(step * number) + 0.0 for number in np.arange(first, last + 1)]


def _line(x: float, y: float, other_x: float, other_y: float, class_: str) -> Markup:
    return element("line", x1=float(x), y1=float(y), x2=float(other_x), y2=float(other_y), class_=class_)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return element("text", text, x=float(x), y=float(y), text_anchor=anchor)


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


_MARKS: tuple[Sequence[tuple[float, float]] | None, ...] = (
    None,  # a circle
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),  # square
    ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),  # triangle
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),  # diamond
    ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),  # triangle upside down
    ((-0.4, -1.2), (0.4, -1.2), (0.4, 1.2), (-0.4, 1.2)),  # upright bar
    ((-1.2, -0.4), (1.2, -0.4), (1.2, 0.4), (-1.2, 0.4)),  # level bar
    ((-1.1, -1.1), (1.1, -1.1), (-1.1, 1.1), (1.1, 1.1)),  # hourglass
)
