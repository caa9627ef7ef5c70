"""Reading what a run chose: its `chosen.json`, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rho_train.report.checked_json import CheckedJson

# Nothing but an image may come into the page this way.
_IMAGE = re.compile("data:image/png;base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Point:
    """A training point as people see it, and what became of it; `loss` is the last one, None where
    unknown. Of `image` (a data URI), `text` and `features` one is given."""

    id: int
    label: str
    noisy: bool | None
    il: float | None
    loss: float | None
    seen: int
    chosen: int
    image: str | None
    text: str | None
    features: tuple[float, ...] | None


@dataclass(frozen=True)
class Selected:
    """What a run chose: points and choices by class, the points chosen most, `tied` as often as the
    last of them (0: unknown), and some of the `never` points that were seen and never chosen,
    `never_noisy` of them with a wrong label."""

    classes: tuple[str, ...]
    points: tuple[int, ...]
    chosen: tuple[int, ...]
    never: int
    never_noisy: int | None
    tied: int
    most_chosen: tuple[Point, ...]
    never_chosen: tuple[Point, ...]


def read_chosen(file: Path) -> Selected:
    """Read a `chosen.json`.

    Raises:
        ValueError: it is not what a run writes.
    """
    fix = "delete the file, or move the folder of this run away and run it again"
    record = CheckedJson.parse(file.read_bytes(), f"{file}", fix)
    points, chosen = record.integers("points"), record.integers("chosen")
    if len(points) != len(chosen) or min((*points, *chosen), default=0) < 0:
        raise record.error("points and chosen must be counts of the same classes")
    classes = () if record.missing("classes") else record.texts("classes")
    if not classes:
        classes = tuple(map(str, range(len(points))))
    if len(classes) < len(points):
        raise record.error(f"classes must name all {len(points)}, got {len(classes)}")
    never = record.count("never")
    return Selected(
        classes=classes,
        points=points,
        chosen=chosen,
        never=never,
        never_noisy=None if record.missing("never_noisy") else record.count("never_noisy", never),
        tied=0 if record.missing("tied") else record.count("tied"),
        most_chosen=tuple(_point(entry, classes) for entry in record.entries("most_chosen")),
        never_chosen=tuple(_point(entry, classes) for entry in record.entries("never_chosen")),
    )


def _point(entry: CheckedJson, classes: tuple[str, ...]) -> Point:
    label = entry.integer("label")
    image = None if entry.missing("image") else entry.text("image")
    if image is not None and not _IMAGE.fullmatch(image):
        raise entry.error("image must be a PNG as data URI")
    point = Point(
        id=entry.count("id"),
        label=classes[label] if 0 <= label < len(classes) else str(label),
        noisy=None if entry.missing("noisy") else entry.flag("noisy"),
        il=None if entry.missing("il") else entry.number("il", least=-float("inf")),
        loss=None if entry.missing("loss") else entry.number("loss", least=-float("inf")),
        seen=entry.count("seen"),
        # No more than `seen`, but for methods that draw with replacement.
        chosen=entry.count("chosen"),
        image=image,
        text=None if entry.missing("text") else entry.text("text"),
        features=None if entry.missing("features") else entry.losses("features"),
    )
    if sum(view is not None for view in (point.image, point.text, point.features)) != 1:
        raise entry.error("needs one of image, text and features")
    return point
