"""Options of a frozen dataclass by their dotted names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def override(options: T, values: Mapping[str, Any], *, among: Collection[str] = ()) -> T:
    """Return `options` with some of them replaced, those of parts by dotted names.

    A list takes the place of a tuple, an integer that of a float and a mapping that of a dataclass;
    otherwise the type must be that of the value which is replaced, unless that is None.

    Args:
        options: a dataclass.
        values: what to replace, by name.
        among: the first parts of names that may be replaced; none: all.

    Raises:
        ValueError: there is no such option, it may not be replaced, or has another type; or the
            dataclass refuses the value.

    Example:
        >>> from rho_train.trainer import TrainConfig
        >>> override(TrainConfig(), {"lr": 1, "schedule": "linear"}).lr
        1.0
    """
    for name, value in values.items():
        first = name.partition(".")[0]
        if among and first not in among:
            raise ValueError(
                f"override: {name!r} belongs to the whole experiment; choose among "
                f"{', '.join(among)}"
            )
        options = _replaced(options, name, name, value)
    return options


def _replaced(options: Any, name: str, whole: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    if isinstance(options, Mapping) and not rest:
        return {**options, first: value}
    known = [field.name for field in fields(options)] if is_dataclass(options) else []
    if first not in known:
        where = whole[: -len(name)].rstrip(".") or type(options).__name__
        raise ValueError(
            f"override: there is no option {whole!r}; {where} has {', '.join(known) or 'no parts'}"
        )
    now = getattr(options, first)
    if rest:
        return replace(options, **{first: _replaced(now, rest, whole, value)})
    hint = get_type_hints(type(options))[first]
    return replace(options, **{first: _converted(now, hint, whole, value)})


def _converted(now: Any, hint: Any, name: str, value: Any) -> Any:
    if isinstance(now, tuple) and isinstance(value, list):
        return tuple(value)
    if type(now) is float and type(value) is int:
        return float(value)
    parts = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    if parts and isinstance(value, Mapping):
        return override(parts[0](), value)  # type: ignore[operator]
    if now is not None and type(value) is not type(now):
        raise ValueError(
            f"override: {name} must be {type(now).__name__}, as {now!r} is, got {value!r}"
        )
    return value
