"""The loss of single points against their irreducible loss, with the four regions named."""

from __future__ import annotations

import math
from statistics import fmean

from rho_train.report.axis import Axis
from rho_train.report.chart import Cloud, scatter_chart
from rho_train.report.curves import Figure, finished, rounded, styles
from rho_train.report.read import Experiment, Method
from rho_train.report.runs import Sample

# What a point is, by where it lies: fractions of the width and height, and the name.
_REGIONS = (
    (0.03, 0.93, "learnable"),
    (0.5, 0.93, "noisy or not learnable"),
    (0.03, 0.05, "learnt"),
    (0.5, 0.05, "forgotten by the IL model"),
)


def quadrants(experiment: Experiment) -> list[Figure]:
    """One figure for each method with irreducible losses, from the middle of the training."""
    looks: list[tuple[Method, int, Sample]] = []
    for method, runs in finished(experiment):
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
    _, high = rounded(0.0, max(known))
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
        f"{count:,} of {len(rows):,} points in large batches of seed {seed} are selected. The "
        "height above the diagonal is what the training loss has in excess of the irreducible "
        "loss. Both axes have square-root steps."
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
            x=Axis("Irreducible loss (IL), nats", 0, high, root=True),
            y=Axis("Training loss, nats", 0, high, root=True),
            diagonal="loss = IL",
            regions=_REGIONS,
        ),
    )
