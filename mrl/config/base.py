"""What all sections of the configuration share: the base class and the types of their values."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Range = tuple[float, float]
T = TypeVar("T")
_NAMED_AT_MOST = 5


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, no NaN or infinity.

    The text below a field is its description, in ``docs/configuration.md`` too.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    def unchanged(self, key: str) -> bool:
        """Whether ``key`` has its default value."""
        return bool(getattr(self, key) == type(self).model_fields[key].default)


def require_default(section: Section, keys: tuple[str, ...], reason: str) -> None:
    """ValueError for the first of ``keys`` that has been set although nothing would read it, for ``reason``."""
    for key in keys:
        if not section.unchanged(key):
            raise ValueError(f"{key} {reason}; leave it out")


def require_unique(items: tuple[T, ...], attribute: str | None = None) -> tuple[T, ...]:
    """``items``, if no two are equal (or have an equal ``attribute``); ValueError otherwise."""
    values = [getattr(item, attribute) if attribute else item for item in items]
    repeated = sorted(str(value) for value, times in Counter(values).items() if times > 1)
    if repeated:
        more = ", ..." if len(repeated) > _NAMED_AT_MOST else ""
        raise ValueError(f"{attribute or 'entry'} {', '.join(repeated[:_NAMED_AT_MOST])}{more} stands twice")
    return items


def require_low_to_high(limits: Range) -> Range:
    """``limits``, if the first does not exceed the second; ValueError otherwise."""
    if limits[0] > limits[1]:
        raise ValueError(f"the first number must not exceed the second, not {list(limits)}")
    return limits
