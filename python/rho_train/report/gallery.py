"""Galleries of the points that a method chose most and of those that it never chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rho_train.report.chosen import Point, Selected
from rho_train.report.curves import finished
from rho_train.report.read import Experiment, Method
from rho_train.report.svg import number, styled, tag

_WIDTH, _HEIGHT = 96, 54


@dataclass(frozen=True)
class Card:
    """A point with its drawing, an SVG element, if it has features; `facts` in short lines."""

    point: Point
    drawing: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The cards of a method, from the run of one seed, each group with a title and a remark."""

    method: Method
    seed: int
    groups: tuple[tuple[str, str, tuple[Card, ...]], ...]


def galleries(experiment: Experiment) -> list[Gallery]:
    """One gallery for each method that wrote down what it chose."""
    found = []
    for method, runs in finished(experiment):
        run = next((run for run in runs if run.chosen is not None), None)
        if run is None or run.chosen is None:
            continue
        chosen = run.chosen
        groups = (
            ("Selected most", _most(chosen), _cards(chosen.most_chosen)),
            ("Never chosen", _never(chosen), _cards(chosen.never_chosen)),
        )
        found.append(Gallery(method, run.seed, tuple(group for group in groups if group[2])))
    return [gallery for gallery in found if gallery.groups]


def _most(chosen: Selected) -> str:
    points = chosen.most_chosen
    flags = [point.noisy for point in points if point.noisy is not None]
    text = f"The {len(points)} points at the top"
    if flags:
        wrong = f"{sum(flags)} of them have" if sum(flags) != 1 else "one of them has"
        text += f"; {wrong if any(flags) else 'none has'} a wrong label"
    last = [point for point in points if point.chosen == points[-1].chosen]
    if chosen.tied > len(last):
        text += (
            f". {chosen.tied:,} points were chosen as often as the last of them, "
            f"{last[0].chosen:,} times: the {len(last)} shown lie evenly in the order of their "
            "last loss"
        )
    return f"{text}."


def _never(chosen: Selected) -> str:
    wrong = ""
    if chosen.never_noisy is not None and chosen.never:
        wrong = f", {chosen.never_noisy / chosen.never:.0%} of them with a wrong label"
    return (
        f"{chosen.never:,} points were drawn and never chosen{wrong}; these "
        f"{len(chosen.never_chosen)} lie evenly in the order of their last loss."
    )


def _cards(points: Sequence[Point]) -> tuple[Card, ...]:
    drawn = [abs(value) for point in points for value in point.features or ()]
    # One scale for all cards of a group, or the bars could not be compared.
    largest = max(drawn, default=0.0) or 1.0
    return tuple(
        Card(
            point,
            "" if point.features is None else _bars(point.features, largest),
            (
                f"drawn {point.seen:,}, chosen {point.chosen:,}",
                f"loss {_nats(point.loss)}, IL {_nats(point.il)}",
            ),
        )
        for point in points
    )


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _bars(values: Sequence[float], largest: float) -> str:
    """A bar for each feature, up and down from the middle."""
    if not values:
        return ""
    step, middle = _WIDTH / len(values), _HEIGHT / 2
    bars = "".join(
        tag(
            "rect",
            class_="bar",
            x=index * step,
            y=middle - max(value, 0.0) / largest * (middle - 1),
            width=max(0.8 * step, 0.3),
            height=max(abs(value) / largest * (middle - 1), 0.3),
        )
        for index, value in enumerate(values)
    )
    line = tag("rect", class_="axis", width=_WIDTH, height=0.5, y=middle)
    return tag(
        "svg",
        styled(1, bars) + line,
        class_="chart features",
        viewBox=f"0 0 {number(_WIDTH)} {number(_HEIGHT)}",
        aria_hidden="true",
    )
