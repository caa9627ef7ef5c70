"""JSON objects whose fields are checked as they are taken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard


class CheckedJson:
    """A JSON object whose fields are checked as they are taken; errors say where it stood."""

    def __init__(self, values: Mapping[str, object], where: str, fix: str) -> None:
        self._values, self._where, self._fix = values, where, fix

    @classmethod
    def parse(cls, data: bytes, where: str, fix: str) -> CheckedJson:
        """The JSON object in `data`; `where` and `fix` go into every error."""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise cls({}, where, fix).error("not a JSON object")
        return cls(values, where, fix)

    def error(self, problem: str) -> ValueError:
        """An error that says where, what and how to mend it."""
        return ValueError(f"read_experiment: {self._where}: {problem}; {self._fix}")

    def _take(self, key: str, wanted: str, test: Callable[[Any], bool]) -> Any:
        value = self._values.get(key)
        if not test(value):
            got = repr(value)[:60] if key in self._values else "nothing"
            raise self.error(f"field {key!r} must be {wanted}, got {got}")
        return value

    def _list(self, key: str, wanted: str, test: Callable[[Any], bool]) -> list[Any]:
        whole = self._take(
            key,
            f"a list of {wanted}",
            lambda value: isinstance(value, list) and all(map(test, value)),
        )
        return list(whole)

    def missing(self, key: str) -> bool:
        """Whether the field is absent or null."""
        return self._values.get(key) is None

    def text(self, key: str) -> str:
        """A string."""
        return str(self._take(key, "a string", lambda value: isinstance(value, str)))

    def integer(self, key: str) -> int:
        """An integer of 64 bits."""
        return int(self._take(key, "an integer", _is_integer))

    def count(self, key: str, most: float = math.inf) -> int:
        """An integer in [0, most]."""
        wanted = f"an integer in [0, {most}]"
        return int(self._take(key, wanted, lambda v: _is_integer(v) and 0 <= v <= most))

    def number(self, key: str, most: float = math.inf, *, least: float = 0.0) -> float:
        """A finite number in [least, most]."""

        def test(value: object) -> bool:
            return _is_number(value) and math.isfinite(value) and least <= value <= most

        return float(self._take(key, f"a finite number in [{least:g}, {most:g}]", test))

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self._take(key, "true or false", lambda value: isinstance(value, bool)))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._list(key, "strings", lambda value: isinstance(value, str)))

    def shares(self, key: str) -> tuple[float | None, ...]:
        """A list of numbers in [0, 1], null where there is none."""

        def test(value: object) -> bool:
            return value is None or (_is_number(value) and 0 <= value <= 1)

        return tuple(self._list(key, "numbers in [0, 1]", test))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers."""
        return tuple(self._list(key, "integers", _is_integer))

    def losses(self, key: str) -> tuple[float, ...]:
        """A list of numbers; a diverged model or an unknown IL is NaN, infinite or null."""
        values = self._list(key, "numbers", lambda v: v is None or _is_number(v))
        return tuple(math.nan if value is None else float(value) for value in values)

    def flags(self, key: str) -> tuple[bool, ...]:
        """A list of true and false."""
        return tuple(self._list(key, "true and false", lambda v: isinstance(v, bool)))

    def mapping(self, key: str) -> Mapping[str, object]:
        """An object with any content."""
        return dict(self._take(key, "an object", lambda value: isinstance(value, dict)))

    def inner(self, key: str) -> CheckedJson:
        """An object whose fields are checked in their turn."""
        return CheckedJson(self.mapping(key), f"{self._where}, {key}", self._fix)

    def entries(self, key: str) -> list[CheckedJson]:
        """A list of objects."""
        entries = self._list(key, "objects", lambda value: isinstance(value, dict))
        return [CheckedJson(entry, f"{self._where}, {key}", self._fix) for entry in entries]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float) or _is_integer(value)
