"""Write the report of one or several comparisons as one page."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

from rho_train.files import atomic_write, make_folder
from rho_train.report.read import read_experiments
from rho_train.report.summary import as_csv, leaders, ranked, summarize
from rho_train.report.table import columns, percent, target_meaning

_LISTED = 30  # classes in the long table
_MARKS = "●■▲◆▼✚✖★"  # as in the figures


def write_report(*folders: Path, out: Path | None = None) -> Path:
    """Write `report.html`, one file without network use, `figures/*.svg` and `summary.csv`.

    Args:
        folders: of comparisons; several are put side by side, see `read_experiments`.
        out: where to write; None: into the folder, if it is one.

    Returns the path of the page; each file appears whole or not at all.

    Raises:
        ValueError: see `read_experiments`; or several folders without `out`.
        OSError: `out` cannot be written.

    Example:
        >>> write_report(Path("runs/demo"))  # doctest: +SKIP
        PosixPath('runs/demo/report.html')
    """
    # matplotlib takes half a second to import.
    from jinja2 import Environment, StrictUndefined

    from rho_train.report.drawing import styles
    from rho_train.report.figures import draw_figures

    if out is None and len(folders) != 1:
        raise ValueError(f"report: {len(folders)} folders need an output folder; give --out")
    out = Path(folders[0] if out is None else out)
    experiment = read_experiments(folders)
    summary = summarize(experiment)
    figures = draw_figures(experiment, summary)
    shown = columns(summary)
    galleries = {method: run for method, (run, *_) in experiment.runs.items() if run.selected}
    names = max((run.selected["classes"] for run in galleries.values()), key=len, default=())
    finished = [row for row in summary.methods if row.finished]
    accuracy = {row.method: row.accuracy for row in finished}
    reference = summary.baseline if summary.baseline.finished else finished[0]
    worst = ranked(reference.accuracies)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = _packaged("page.css")
    page = environment.from_string(_packaged("template.html")).render(
        css=style,
        experiment=experiment,
        summary=summary,
        **leaders(summary),
        columns=shown,
        rows={row.method: [column.cell(row) for column in shown] for row in summary.methods},
        finished=finished,
        reference=reference,
        marks={m: (_MARKS[(s + s // 8) % 8], s % 8) for m, s in styles(experiment).items()},
        target=target_meaning(summary),
        figures=figures,
        known=math.isfinite,
        ranked=ranked,
        class_name=lambda c: names[c] if c < len(names) else str(c),
        listed=sorted(worst) if len(worst) <= _LISTED else worst[:_LISTED],
        galleries=galleries,
        opened=max(galleries, key=accuracy.__getitem__, default=""),
        percent=percent,
    )
    for folder in (out, out / "figures"):
        make_folder(folder, "report")
    palette = style.partition("/* The page. */")[0]
    for name, figure in figures.items():
        drawing = figure.svg.replace(">", f"><style>{palette}</style>", 1)
        atomic_write(out / "figures" / f"{name}.svg", drawing.encode("utf-8", "replace"))
    # JSON may hold lone surrogates, which UTF-8 has not.
    for name, text in (("summary.csv", as_csv(summary)), ("report.html", page)):
        atomic_write(out / name, text.encode("utf-8", "replace"))
    return out / "report.html"


def _packaged(name: str) -> str:
    return files("rho_train.report").joinpath(name).read_text("utf-8")
