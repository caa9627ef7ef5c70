"""Tables and the figure of rivals.py, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.derive import Paired, Row, paired, read_runs

SETS = {"letters": "Letters", "ocr": "OCR letters", "fashion": "Fashion-MNIST", "tweets": "Tweets"}
NOISES = {"40": "40 % wrong", "20": "20 % wrong", "weak": "weak labeller", "0": "as it is"}
NOISES |= {"natural": "as it is"}
# Of several forms of a method the one counts that is best on validation examples.
FORMS = {
    "uniform": ("uniform",),
    "smoothing": ("smoothing .1", "smoothing .3"),
    "GCE": ("GCE",),
    "ELR": ("ELR",),
    "InfoBatch": ("InfoBatch",),
    "agreement": ("agreement",),
    "filter": ("filter", "filter + smoothing"),
    "RHO-LOSS": ("RHO-LOSS",),
    "filter, IL free": ("filter, IL free", "filter + smoothing, IL free"),
    "RHO-LOSS, IL free": ("RHO-LOSS, IL free", "RHO-LOSS + smoothing, IL free"),
    "highest loss": ("highest loss",),
    "true labels": ("true labels",),
    "best uniform": ("uniform", "smoothing .1", "smoothing .3", "GCE"),
}
_RANDOM = ("40", "20")
# What to do when, because of which difference, in which settings, within how many passes.
SITUATIONS = (
    (
        *("labels are wrong at random, 8 passes or more", "agreement and label smoothing"),
        *(("agreement", "best uniform"), _RANDOM, 16),
    ),
    (
        *("the same, 4 passes or fewer", "generalised cross-entropy"),
        *(("GCE", "uniform"), _RANDOM, 4),
    ),
    (
        *("labels are wrong as people or models err", "the same; on tweets nothing helps"),
        *(("agreement", "smoothing"), ("weak", "natural"), 16),
    ),
    (
        *("labels are right", "label smoothing"),
        *(("smoothing", "agreement"), ("0",), 16),
    ),
    (
        *("labels are wrong, and IL is there", "keep what has the lowest IL, once, and smooth"),
        *(("filter, IL free", "RHO-LOSS, IL free"), _RANDOM, 16),
    ),
    (
        *("this run would have to pay for the IL", "no IL: what stands above"),
        *(("best uniform", "RHO-LOSS"), ("0", "40", "weak", "natural"), 16),
    ),
)


class Ends:
    """The runs of a setting: `best` gives the form and the budget of a method by validation."""

    def __init__(self, setting: tuple[str, str], rows: Sequence[Row]) -> None:
        here = [row for row in rows if (row["set"], row["noise"]) == setting]
        self._rows = {(row["method"], int(row["passes"])): row for row in here}

    def best(self, method: str, most: int = 16) -> Row | None:
        """Return the row of a method within a budget; None if it has none."""
        found = [
            row
            for (name, passes), row in self._rows.items()
            if name in FORMS[method] and passes <= most
        ]
        return max(found, key=lambda row: fmean(values(row, "validation")), default=None)

    def at(self, method: str, passes: int) -> Row | None:
        """Return the row of a method at one budget."""
        found = [self._rows.get((name, passes)) for name in FORMS[method]]
        rows = [row for row in found if row is not None]
        return max(rows, key=lambda row: fmean(values(row, "validation")), default=None)

    def above(self, ours: str, rival: str, most: int = 16) -> Paired | None:
        """Return the differences of two methods within a budget by seed, as shares."""
        a, b = self.best(ours, most), self.best(rival, most)
        if a is None or b is None:
            return None
        pairs = zip(values(a, "test"), values(b, "test"), strict=False)  # the seeds of both
        return paired((x - y) / 100 for x, y in pairs)


def values(row: Row, column: str) -> list[float]:
    """Return the numbers of the seeds."""
    return [float(value) for value in row[column].split()]


@cache
def settings() -> dict[tuple[str, str], Ends]:
    """Return the settings that have rows."""
    rows = read_runs("rivals")
    found = dict.fromkeys((row["set"], row["noise"]) for row in rows)
    order = sorted(found, key=lambda of: ([*NOISES].index(of[1]), [*SETS, of[0]].index(of[0])))
    return {setting: Ends(setting, rows) for setting in order}


def name(setting: tuple[str, str]) -> str:
    """Return the name of a setting for people."""
    return f"{SETS.get(setting[0], setting[0])}, {NOISES[setting[1]]}"


def _mean(row: Row | None, column: str = "test") -> str:
    return "" if row is None else f"{fmean(values(row, column)):.1f}"


def accuracies(methods: Sequence[str], column: str = "test") -> list[list[str]]:
    """Return a line for each setting but scraped data: the mean of each method, the best bold."""
    lines = []
    for setting, ends in settings().items():
        if setting[0] not in SETS:
            continue
        line = [_mean(ends.best(method), column) for method in methods]
        known = [
            float(text)
            for text, method in zip(line, methods, strict=True)
            if text and "free" not in method and method != "true labels"
        ]
        top = f"{max(known):.1f}" if known else ""
        line = [f"**{text}**" if text == top else text for text in line]
        lines.append([name(setting), *line])
    return lines


def differences(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return a line for each setting but scraped data: differences of pairs of methods."""
    lines = []
    for setting, ends in settings().items():
        if setting[0] in SETS:
            found = [ends.above(*pair) for pair in pairs]
            lines.append([name(setting), *("" if of is None else of.points for of in found)])
    return lines


def situations() -> list[list[str]]:
    """Return what to do in which situation, and the differences that say so, in points."""
    table = []
    for situation, todo, (ours, rival), noises, most in SITUATIONS:
        found = [
            f"{name(setting)} {of.points}"
            for setting, ends in settings().items()
            if setting[0] in SETS and setting[1] in noises
            if (of := ends.above(ours, rival, most)) is not None
        ]
        if found:
            table.append([situation, todo, f"{ours} - {rival}: {'; '.join(found)}"])
    return table


def scraped(methods: Sequence[str]) -> list[list[str]]:
    """Return accuracy and balanced accuracy on scraped data, with copies and without."""
    known = settings()
    lines = []
    for method in methods:
        line = [method]
        for which in ("web", "web, distinct"):
            row = known[which, "40"].best(method) if (which, "40") in known else None
            line += [_mean(row), _mean(row, "balanced")]
        if any(line[1:]):
            lines.append(line)
    return lines


def draw(path: Path) -> None:
    """Draw accuracy against cost, a panel a setting, as a PNG."""
    import matplotlib
    import matplotlib.pyplot as plt

    from plotting import STYLE, save

    shown = {
        "uniform": ("#000000", "-", "o"),
        "smoothing": ("#777777", "-", "s"),
        "GCE": ("#0072B2", "-", "D"),
        "agreement": ("#D55E00", "-", "^"),
        "RHO-LOSS": ("#009E73", "-", "v"),
        "RHO-LOSS, IL free": ("#009E73", ":", "v"),
        "filter, IL free": ("#7B3294", ":", "P"),
        "true labels": ("#BBBBBB", "--", ""),
    }
    panels = [of for of in settings() if of[0] in SETS and of[1] != "20"]
    style: Any = {**STYLE, "axes.grid": True, "grid.color": "#E4E4E4", "axes.axisbelow": True}
    with matplotlib.rc_context(style):
        down = -(-len(panels) // 3)
        figure, axes = plt.subplots(
            *(down, 3), figsize=(10.4, 2.5 * down + 0.7), squeeze=False, layout="constrained"
        )
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for axis, setting in zip(axes.flat, panels, strict=False):
            ends, lowest = settings()[setting], []
            for method, (colour, line, marker) in shown.items():
                found = [(b, row) for b in (1, 2, 4, 8, 16) if (row := ends.at(method, b))]
                y = [fmean(values(row, "test")) for _, row in found]
                x = [b for b, _ in found]
                axis.plot(x, y, line, color=colour, marker=marker, ms=4, lw=1.4, label=method)
                lowest += y[1:3]
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_ylim(bottom=min(lowest, default=0.0))
            axis.set_title(name(setting), loc="left")
        figure.supxlabel("cost in passes of uniform training, everything counted", fontsize=9)
        figure.supylabel("test accuracy, %", fontsize=9)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
        save(figure, path)
