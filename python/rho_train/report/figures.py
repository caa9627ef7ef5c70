"""The figures of the report: each is left out where the experiment has no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rho_train.report.axis import Axis, nice_step
from rho_train.report.chart import Cloud, Reference, Series, line_chart, scatter_chart
from rho_train.report.read import Experiment, Method, Run, Sample, Train
from rho_train.report.summary import Summary

_BINS = 25
# Until this share of the training the curves are on their steep way up: the axis shows the rest.
_WARMUP = 0.4


@dataclass(frozen=True)
class Figure:
    """A drawing with the words that belong to it."""

    name: str
    title: str
    caption: str
    svg: str


def make_figures(experiment: Experiment, summary: Summary) -> list[Figure]:
    """All figures that the experiment has data for, in reading order."""
    figures = [
        _accuracy(experiment, summary, charged=False),
        _accuracy(experiment, summary, charged=True),
        _share(
            experiment,
            name="noisy",
            title="Wrong labels among the selected points",
            count=lambda record: record.noisy,
            base_rate=summary.base_rate,
            reading="Below the dashed line a method avoids points with wrong labels, above it, it "
            "seeks them out.",
        ),
        _share(
            experiment,
            name="correct",
            title="Already correct among the selected points",
            count=lambda record: record.correct,
            base_rate=None,
            reading="A high share means that the step was spent on points which the model already "
            "classified correctly.",
        ),
        *_quadrants(experiment),
    ]
    return [figure for figure in figures if figure is not None]


def styles(experiment: Experiment) -> dict[str, int]:
    """Colour and marker of each method: the baseline 0 (ink), the others 1 to 7 in order."""
    others = [m.name for m in experiment.methods if m.name != experiment.baseline]
    return {experiment.baseline: 0} | {name: index for index, name in enumerate(others, 1)}


def _accuracy(experiment: Experiment, summary: Summary, *, charged: bool) -> Figure:
    curves: list[Series] = []
    settled: list[float] = []
    for method, runs in _finished(experiment):
        common = set.intersection(*({record.step for record in run.evals} for run in runs))
        evals = [{r.step: r for r in run.evals if r.step in common} for run in runs]
        steps = sorted(common)
        seconds = [
            fmean(run.il_seconds + of[step].seconds for run, of in zip(runs, evals, strict=True))
            for step in steps
        ]
        values = [[of[step].accuracy for of in evals] for step in steps]
        x = seconds if charged else [float(step) for step in steps]
        curves.append(_over_seeds(experiment, method, x, values))
        late = [v for step, v in zip(steps, values, strict=True) if step >= _WARMUP * steps[-1]]
        settled += [value for point in late for value in point]
    low, high = _rounded(min(settled), max([*settled, summary.target or 0.0]))
    end = max(x for curve in curves for x in curve.x) if charged else experiment.steps
    references = [] if summary.target is None else [Reference(summary.target, "baseline's best")]
    title = f"Test accuracy against {'seconds, IL charged' if charged else 'steps'}"
    caption = (
        "The same against wall-clock seconds without evaluation (mean over the seeds). A curve "
        "starts when its irreducible losses are paid for."
        if charged
        else f"{_band(experiment)} The dashed line is the best of “{summary.baseline.label}” (mean "
        "over the seeds): a method that crosses it early needs fewer steps."
    )
    return Figure(
        name="accuracy-seconds" if charged else "accuracy-steps",
        title=title,
        caption=f"{caption} The axis begins at {100 * low:g}%.",
        svg=line_chart(
            curves,
            name="accuracy-seconds" if charged else "accuracy-steps",
            title=title,
            desc=_ends(curves),
            x=Axis(
                "Seconds of training, with those for IL" if charged else "Steps", 0, max(end, 1e-3)
            ),
            y=Axis("Test accuracy", low, high, percent=True),
            references=references,
        ),
    )


def _share(
    experiment: Experiment,
    *,
    name: str,
    title: str,
    count: Callable[[Train], int | None],
    base_rate: float | None,
    reading: str,
) -> Figure | None:
    window = int(max(1, nice_step(experiment.steps / _BINS)))
    curves = []
    for method, runs in _finished(experiment):
        binned = [_binned(run, window, count) for run in runs]
        bins = sorted(set.intersection(*(set(of) for of in binned)))
        middles = [min((index + 0.5) * window, experiment.steps) for index in bins]
        values = [[of[index] for of in binned] for index in bins]
        if bins:
            curves.append(_over_seeds(experiment, method, middles, values))
    if not curves:
        return None
    tops = [
        high for curve in curves for _, high in curve.band or zip(curve.y, curve.y, strict=True)
    ]
    _, high = _rounded(0.0, max([*tops, base_rate or 0.0]))
    references = [] if base_rate is None else [Reference(base_rate, f"all points: {base_rate:.1%}")]
    return Figure(
        name=name,
        title=title,
        caption=f"{reading} Each point is the mean of {window:,} steps.",
        svg=line_chart(
            curves,
            name=name,
            title=title,
            desc=_ends(curves),
            x=Axis("Steps", 0, experiment.steps),
            y=Axis("Share of the selected points", 0, high, percent=True),
            references=references,
        ),
    )


def _binned(run: Run, window: int, count: Callable[[Train], int | None]) -> dict[int, float]:
    hits: dict[int, int] = {}
    selected: dict[int, int] = {}
    for record in run.train:
        index, hit = max(0, record.step - 1) // window, count(record)
        if hit is not None and record.selected:
            hits[index] = hits.get(index, 0) + hit
            selected[index] = selected.get(index, 0) + record.selected
    return {index: hits[index] / selected[index] for index in hits}


def _quadrants(experiment: Experiment) -> list[Figure]:
    looks: list[tuple[Method, int, Sample]] = []
    for method, runs in _finished(experiment):
        samples = [sample for sample in runs[0].samples if sample.il is not None]
        if samples:
            half = experiment.steps / 2
            middle = min(samples, key=lambda sample: abs(sample.step - half))
            looks.append((method, runs[0].seed, middle))
    known = [
        value
        for _, _, sample in looks
        for value in (*sample.loss, *(sample.il or ()))
        if math.isfinite(value)
    ]
    if not known:
        return []
    _, high = _rounded(0.0, max(known))
    return [_quadrant(experiment, *look, high) for look in looks]


def _quadrant(
    experiment: Experiment, method: Method, seed: int, sample: Sample, high: float
) -> Figure:
    noisy = sample.noisy or (False,) * len(sample.loss)
    rows = list(zip(sample.il or (), sample.loss, sample.selected, noisy, strict=True))

    def cloud(label: str, shape: int, chosen: bool, wrong: bool) -> Cloud:
        points = [(il, loss) for il, loss, one, bad in rows if (one, bad) == (chosen, wrong)]
        return Cloud(label, shape, 2 if chosen else None, points)

    if sample.noisy is None:
        clouds = [cloud("not selected", 0, False, False), cloud("selected", 0, True, False)]
    else:
        clouds = [
            cloud("clean, not selected", 0, False, False),
            cloud("wrong label, not selected", 5, False, True),
            cloud("clean, selected", 0, True, False),
            cloud("wrong label, selected", 5, True, True),
        ]
    count = sum(sample.selected)
    title = f"{method.label}: loss against IL at step {sample.step:,}"
    caption = (
        f"{count:,} of {len(rows):,} points in large batches of seed {seed} are selected: those "
        "whose training loss exceeds their irreducible loss most. Both axes have square-root steps."
    )
    if sample.noisy is not None and count:
        wrong = sum(one and bad for _, _, one, bad in rows) / count
        caption += f" {wrong:.0%} of them have a wrong label, of all points {fmean(noisy):.0%}."
    name = f"quadrant-{styles(experiment)[method.name]}"
    return Figure(
        name=name,
        title=title,
        caption=caption,
        svg=scatter_chart(
            clouds,
            name=name,
            title=title,
            desc=caption,
            x=Axis("Irreducible loss (IL)", 0, high, root=True),
            y=Axis("Training loss", 0, high, root=True),
            diagonal="loss = IL",
            regions=[
                (0.03, 0.93, "learnable"),
                (0.48, 0.93, "noisy or outlier"),
                (0.25, 0.04, "already learnt"),
            ],
        ),
    )


def _finished(experiment: Experiment) -> Iterable[tuple[Method, list[Run]]]:
    for method in experiment.methods:
        if runs := list(experiment.of(method.name).values()):
            yield method, runs


def _over_seeds(
    experiment: Experiment, method: Method, x: Sequence[float], values: Sequence[Sequence[float]]
) -> Series:
    several = len(values[0]) > 1
    return Series(
        label=method.label,
        style=styles(experiment)[method.name],
        x=x,
        y=[fmean(of) for of in values],
        band=[(min(of), max(of)) for of in values] if several else None,
    )


def _band(experiment: Experiment) -> str:
    if all(len(runs) == 1 for _, runs in _finished(experiment)):
        return "One seed."
    return "Lines: mean over the seeds; bands: from the lowest to the highest seed."


def _ends(curves: Sequence[Series]) -> str:
    return "Last values: " + "; ".join(f"{curve.label} {curve.y[-1]:.1%}" for curve in curves) + "."


def _rounded(low: float, high: float) -> tuple[float, float]:
    low = max(0.0, min(low, high - 0.01))
    high = max(high, low + 0.01)
    step = nice_step((high - low) / 20)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
