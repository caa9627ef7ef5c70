"""Writing the report of one or several experiments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from rho_train.files import atomic_write
from rho_train.report.classes import by_class, class_figure, class_names, listed_classes
from rho_train.report.cost import break_even, ledger_figure, ledger_rows
from rho_train.report.curves import styles
from rho_train.report.figures import make_figures
from rho_train.report.gallery import Gallery, galleries
from rho_train.report.headline import headline
from rho_train.report.merge import read_experiments
from rho_train.report.runs import PARTS
from rho_train.report.summary import Summary, as_csv, summarize
from rho_train.report.svg import STYLE, sign, standalone
from rho_train.report.table import columns, left_out_lines, target_meaning


def write_report(*folders: Path, out: Path | None = None) -> Path:
    """Write `report.html`, one file without network use, `figures/*.svg` and `summary.csv`.

    Args:
        folders: those that experiments wrote; several are compared, see `read_experiments`.
        out: where to write; None: into the folder, if it is one.

    Returns:
        The path of the page. Each file appears whole or not at all.

    Raises:
        ValueError: see `read_experiments`; or several folders without `out`.
        OSError: `out` cannot be written.

    Example:
        >>> write_report(Path("runs/demo"))  # doctest: +SKIP
        PosixPath('runs/demo/report.html')
    """
    if out is None and len(folders) != 1:
        raise ValueError(f"report: {len(folders)} folders need an output folder; give --out")
    out = Path(folders[0] if out is None else out)
    experiment = read_experiments(folders)
    summary = summarize(experiment)
    figures = make_figures(experiment, summary)
    signs = {name: Markup(sign(style)) for name, style in styles(experiment).items()}
    ledger, classes = ledger_rows(experiment), by_class(experiment)
    names, cards = class_names(experiment), galleries(experiment)
    shown = columns(summary)
    seconds, classwise = ledger_figure(ledger), class_figure(experiment, classes)
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html").render(
        experiment=experiment,
        headline=headline(summary),
        columns=shown,
        signs=signs,
        rows=[(row.method, [column.cell(row) for column in shown]) for row in summary.methods],
        other_steps=summary.other_steps,
        target=target_meaning(summary),
        left_out=left_out_lines(summary),
        figures=figures,
        seconds=seconds,
        ledger=ledger,
        base=summary.baseline,
        infinity=math.inf,
        parts=PARTS,
        break_even=break_even(experiment),
        classwise=classwise,
        classes=classes,
        called=lambda c: names[c] if c < len(names) else str(c),
        listed=listed_classes(experiment, classes) if classes else [],
        galleries=cards,
        best=_best(summary, cards),
        selection=Markup(_packaged("selection.svg")),
        config=list(_flat(experiment.config)),
        environment=list(_flat(experiment.environment)),
        style=Markup(STYLE + _packaged("page.css")),
    )
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in (*figures, seconds, classwise):
        if figure is not None:
            atomic_write(folder / f"{figure.name}.svg", _bytes(standalone(figure.svg)))
    atomic_write(out / "summary.csv", as_csv(summary))
    atomic_write(out / "report.html", _bytes(page))
    return out / "report.html"


def _best(summary: Summary, shown: list[Gallery]) -> str:
    """The method whose gallery is open: of those that have one, it ends with the best model."""
    accuracy = {row.method.name: row.accuracy or 0.0 for row in summary.methods}
    return max((gallery.method.name for gallery in shown), key=accuracy.__getitem__, default="")


def _packaged(name: str) -> str:
    return files("rho_train.report").joinpath(name).read_text("utf-8")


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _bytes(text: str) -> bytes:
    # JSON may hold lone surrogates, which UTF-8 has not.
    return text.encode("utf-8", "replace")
