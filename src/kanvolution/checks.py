"""Checks of users' values: each error states the value, the limit and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real


def integer_at_least(name: str, value: object, minimum: int) -> int:
    """`value` as int. Raises TypeError if it is no integer, ValueError if it is below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} (={value!r}) must be an integer; pass a whole number >= {minimum}")
    value = int(value)
    if value < minimum:
        raise ValueError(f"{name} (={value}) must be >= {minimum}; pass a larger value")
    return value


def interval(name: str, value: Sequence[float]) -> tuple[float, float]:
    """`value` as (low, high). Raises ValueError unless it holds two finite numbers in increasing order."""
    numbers = tuple(value)
    if len(numbers) != 2 or not all(isinstance(v, Real) for v in numbers) or not numbers[0] < numbers[1]:
        raise ValueError(f"{name} (={value!r}) must be two numbers (low, high) with low < high")
    low, high = float(numbers[0]), float(numbers[1])
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"{name} (={value!r}) must be finite; choose the range the inputs really have")
    return low, high


def probability(name: str, value: float) -> float:
    """`value` as float in [0, 1). Raises ValueError otherwise."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} (={value}) must be in [0, 1); 0 switches it off")
    return float(value)


def non_negative(name: str, value: float) -> float:
    """`value` as float. Raises ValueError unless it is finite and >= 0."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} (={value}) must be finite and >= 0; 0 switches it off")
    return float(value)


def divisible(name: str, value: int, by_name: str, by: int) -> None:
    """Raises ValueError unless `by` divides `value`."""
    if value % by:
        raise ValueError(
            f"{name} (={value}) must be divisible by {by_name} (={by}); change one of them, e.g. {by_name}=1"
        )
