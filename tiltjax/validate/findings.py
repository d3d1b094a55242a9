"""What is wrong with the arguments of one call; and numbers, which most arguments are."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


class Findings:
    """What is wrong with the arguments of one call: gathered, then said all at once."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.found: list[tuple[type[Exception], str]] = []

    def unless(self, fine: Any, message: str, kind: type[Exception] = ValueError) -> None:
        """Notes `message`, where `fine` is not true."""
        if not fine:
            self.found.append((kind, message))

    def within(self, check: Callable[..., Any], *arguments: Any) -> Any:
        """What a check gives; what it raises is noted."""
        try:
            return check(*arguments)
        except (TypeError, ValueError) as error:
            self.found.append((TypeError if isinstance(error, TypeError) else ValueError, str(error)))
            return None

    def stop(self) -> None:
        """Raises what was noted, if anything: TypeError where all of it is of types, else ValueError."""
        if not self.found:
            return
        kinds, lines = zip(*self.found, strict=True)
        kind = TypeError if all(kind is TypeError for kind in kinds) else ValueError
        if len(lines) == 1:
            raise kind(lines[0])
        raise kind("\n- ".join([f"{self.call} was called with {len(lines)} arguments that cannot work:", *lines]))


def positive_int(name: str, value: Any) -> int:
    """`value`, checked to be a positive int (or a scalar integer array)."""
    try:
        count = operator.index(value)
    except TypeError:
        advice = f" Pass {name}={int(value)}." if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{name} must be a positive int; got {type(value).__name__} {value!r}.{advice}") from None
    if count < 1:
        raise ValueError(f"{name} must be a positive int; got {count}.")
    return count


def positive(name: str, what: str, value: Any, advice: str = "") -> float:
    """`value`, checked to be a positive and finite number."""
    number = as_number(name, value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} is {what} and must be positive and finite; got {value}.{advice}")
    return number


def between(name: str, what: str, value: Any, low: float, high: float, *, ends: str = "[]", note: str = "") -> float:
    """`value`, checked to lie between two numbers; `ends` says which of them are allowed."""
    number = as_number(name, value)
    fine = (number >= low if ends[0] == "[" else number > low) and (number <= high if ends[1] == "]" else number < high)
    if not fine:
        raise ValueError(f"{name} is {what}, in {ends[0]}{low:g}, {high:g}{ends[1]}{note}; got {value}.")
    return number


def as_number(name: str, value: Any) -> float:
    """As a float. TypeError for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number; got {type(value).__name__} {value!r}.") from None


def type_name(value: Any) -> str:
    """Of what stands where a key should."""
    raw = getattr(value, "dtype", None) == jnp.uint32
    return "an old-style jax.random.PRNGKey" if raw else type(value).__name__
