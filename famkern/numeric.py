"""What counts as a number where a caller gives one: Python's own and NumPy's, but not True and False."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether this is an integer, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether this is an integer or a floating-point number, Python's or NumPy's; NaN is one."""
    return isinstance(value, Real) and not isinstance(value, bool)
