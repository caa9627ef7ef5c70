"""Tables and the figure of rivals.py, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from experiments.derive import Paired, paired, read_runs
from keep import Row

SETS = {"letters": "Letters", "ocr": "OCR letters", "fashion": "Fashion-MNIST", "tweets": "Tweets"}
SETS |= {"letters, larger target": "Letters, larger target"}
NOISES = {"40": "40 % wrong", "20": "20 % wrong", "weak": "weak labeller", "0": "as it is"}
NOISES |= {"natural": "as it is"}
# Settings of the figure.
PANELS = (("letters", "40"), ("letters", "weak"), ("letters", "0"), ("tweets", "natural"))
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
    "true labels": ("true labels",),
    "best uniform": ("uniform", "smoothing .1", "smoothing .3", "GCE", "ELR"),
}
_RANDOM, _ALL = ("40", "20"), ("0", "40", "20", "weak", "natural")


class Situation(NamedTuple):
    """A thing to do, when, and the difference of two methods that says so, in some settings."""

    when: str
    do: str
    ours: str
    rival: str
    noises: tuple[str, ...]
    passes: int = 16
    column: str = "test"
    sets: tuple[str, ...] = tuple(SETS)


SITUATIONS = (
    Situation(
        *("40 % of the labels are wrong at random, 16 passes", "agreement, with smoothing"),
        *("agreement", "best uniform", ("40",)),
    ),
    Situation(
        *("20 % of them are", "agreement, smoothing or GCE: no clear winner"),
        *("agreement", "best uniform", ("20",)),
    ),
    Situation(
        *("labels are wrong at random, 2 to 4 passes", "generalised cross-entropy (GCE)"),
        *("GCE", "uniform", _RANDOM, 4),
    ),
    Situation(
        *("labels are wrong as people or models err", "smoothing, or agreement: no clear winner"),
        *("agreement", "best uniform", ("weak", "natural")),
    ),
    Situation("labels are right", "label smoothing", "smoothing", "agreement", ("0",)),
    Situation(
        *("some classes are rare", "agreement or GCE, and look at the worst class"),
        *("agreement", "best uniform", _ALL, 16, "balanced", ("ocr",)),
    ),
    Situation(
        *("labels are wrong, and IL is there", "keep what has the lowest IL, once, and smooth"),
        *("filter, IL free", "RHO-LOSS, IL free", _RANDOM),
    ),
    Situation(
        *("this run would have to pay for the IL", "no IL: what stands above"),
        *("uniform", "RHO-LOSS", _ALL),
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
            if name in FORMS.get(method, (method,)) and passes <= most
        ]
        return max(found, key=lambda row: fmean(values(row, "validation")), default=None)

    def at(self, method: str, passes: int) -> Row | None:
        """Return the row of a method at one budget."""
        found = [self._rows.get((name, passes)) for name in FORMS.get(method, (method,))]
        rows = [row for row in found if row is not None]
        return max(rows, key=lambda row: fmean(values(row, "validation")), default=None)

    def above(self, ours: str, rival: str, most: int = 16, column: str = "test") -> Paired | None:
        """Return the differences of two methods within a budget by seed, as shares."""
        return _minus(self.best(ours, most), self.best(rival, most), column)


def _minus(a: Row | None, b: Row | None, column: str = "test") -> Paired | None:
    if a is None or b is None:
        return None
    pairs = zip(values(a, column), values(b, column), strict=False)  # the seeds of both
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


def agreement() -> list[list[str]]:
    """Return what agreement gains over GCE by passes, and its visits to wrong labels at the end."""
    lines = []
    for setting, ends in settings().items():
        last = ends.at("agreement", 16)
        if last is None or setting[0] not in SETS or setting[1] not in _RANDOM:
            continue
        above = [_minus(ends.at("agreement", most), ends.at("GCE", most)) for most in (4, 8, 16)]
        cells = ["" if of is None else of.points for of in above]
        lines.append([name(setting), *cells, _mean(last, "wrong_visits")])
    return lines


def visits(methods: Sequence[str]) -> list[list[str]]:
    """Return accuracies, and wrong labels among the last visits, where all methods have rows."""
    lines = []
    for setting, ends in settings().items():
        rows = [row for method in methods if (row := ends.best(method))]
        if len(rows) == len(methods):
            cells = (f"{_mean(row)} / {_mean(row, 'wrong_visits')}" for row in rows)
            lines.append([name(setting), *cells])
    return lines


def situations() -> list[list[str]]:
    """Return what to do in which situation, and the differences that say so, in points."""
    table = []
    for of in SITUATIONS:
        found = [
            f"{name(setting)} {above.points}"
            for setting, ends in settings().items()
            if setting[0] in of.sets and setting[1] in of.noises
            if (above := ends.above(of.ours, of.rival, of.passes, of.column)) is not None
        ]
        if found:
            what = " in balanced accuracy" if of.column == "balanced" else ""
            why = f"{of.ours} - {of.rival}{what}: {'; '.join(found)}"
            table.append([of.when, of.do, why])
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
    """Draw accuracy against cost in four settings; the tables have them all.

    Its texts keep 11 px on a phone, where the figure is 370 px wide.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    from plotting import STYLE, save

    shown = {
        "uniform": ("#000000", "-", "o"),
        "smoothing": ("#56B4E9", "-", "s"),
        "GCE": ("#0072B2", "-", "D"),
        "agreement": ("#D55E00", "-", "^"),
        "RHO-LOSS": ("#009E73", "-", "v"),
        "RHO-LOSS, IL free": ("#009E73", ":", "v"),
        "filter, IL free": ("#555555", ":", "P"),
        "true labels": ("#BBBBBB", "--", ""),
    }
    style: Any = {**STYLE, "axes.grid": True, "grid.color": "#E4E4E4", "axes.axisbelow": True}
    with matplotlib.rc_context({**style, "font.size": 11, "axes.titlesize": 11}):
        figure, axes = plt.subplots(2, 2, figsize=(5.2, 5.6), layout="constrained")
        for axis, setting in zip(axes.flat, PANELS, strict=True):
            ends = settings()[setting]
            for method, (colour, line, marker) in shown.items():
                found = [(b, row) for b in (1, 2, 4, 8, 16) if (row := ends.at(method, b))]
                y = [fmean(values(row, "test")) for _, row in found]
                x = [b for b, _ in found]
                axis.plot(x, y, line, color=colour, marker=marker, ms=4, lw=1.4, label=method)
            axis.set_xscale("log", base=2)
            axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
            axis.set_title(name(setting), loc="left")
        figure.supxlabel("cost in passes of uniform training, all counted", fontsize=11)
        figure.supylabel("test accuracy, %", fontsize=11)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        options: Any = {"ncols": 2, "frameon": False, "labelspacing": 0.2}
        figure.legend(handles, labels, loc="outside upper left", **options)
        save(figure, path)
