"""Write the report of a comparison as one page."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rho_train.files import atomic_write, make_folder
from rho_train.report.read import read_experiment
from rho_train.report.summary import as_csv, summarize
from rho_train.report.table import percent, tables, target_meaning

_MARKS = "●■▲◆▼✚✖★"  # as in the figures


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write `report.html`, one file without network use, and `summary.csv`; return the page's path.

    Args:
        folder: of a comparison.
        out: where to write; None: into the folder. Each file appears whole or not at all.

    Raises:
        ValueError: see `read_experiment`.
        OSError: `out` cannot be written.

    Example:
        >>> write_report(Path("runs/demo"))  # doctest: +SKIP
        PosixPath('runs/demo/report.html')
    """
    # matplotlib takes half a second to import.
    from jinja2 import Environment, StrictUndefined

    from rho_train.report.drawing import styles
    from rho_train.report.figures import draw_figures

    out = Path(folder if out is None else out)
    experiment = read_experiment(folder)
    summary = summarize(experiment)
    others = [row for row in summary.methods if row is not summary.baseline and row.paired]
    accuracy = {row.method: row.accuracy for row in summary.methods}
    galleries = {method: run for method, (run, *_) in experiment.runs.items() if run.selected}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_packaged("template.html")).render(
        css=_packaged("page.css"),
        experiment=experiment,
        summary=summary,
        best=max(others, key=lambda row: row.gain, default=None),
        tables=tables(summary),
        marks={m: (_MARKS[(s + s // 8) % 8], s % 8) for m, s in styles(experiment).items()},
        target=target_meaning(summary),
        figures=draw_figures(experiment, summary),
        galleries=galleries,
        opened=max(galleries, key=accuracy.__getitem__, default=""),
        percent=percent,
    )
    make_folder(out, "report")
    # JSON may hold lone surrogates, which UTF-8 has not.
    for name, text in (("summary.csv", as_csv(summary)), ("report.html", page)):
        atomic_write(out / name, text.encode("utf-8", "replace"))
    return out / "report.html"


def _packaged(name: str) -> str:
    return files("rho_train.report").joinpath(name).read_text("utf-8")
