"""Write the report of a comparison as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rho_train.files import atomic_write, make_folder
from rho_train.report.experiment import percent, read_experiment

_MARKS = "●■▲◆▼✚✖★"  # as in the figures


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write `report.html`, one file without network use, and `summary.csv`; return the page's path.

    Args:
        folder: of a comparison.
        out: where to write; None: into the folder. Each file appears whole or not at all.

    Raises:
        ValueError: see `read_experiment`.
        OSError: `out` cannot be written.

    Examples:
        >>> write_report(Path("runs/demo"))  # doctest: +SKIP
        PosixPath('runs/demo/report.html')
    """
    # matplotlib takes half a second to import.
    from rho_train.report.figures import figures_of, styles

    out = Path(folder if out is None else out)
    experiment = read_experiment(folder)
    base = experiment.methods[experiment.baseline]
    others = [row for row in experiment.methods.values() if row is not base and row["paired"]]
    galleries = {method: run for method, (run, *_) in experiment.runs.items() if run.selected}
    page = rendered_page(
        "template.html",
        experiment=experiment,
        base=base,
        best=max(others, key=lambda row: row["gain"], default=None),
        marks={m: (_MARKS[mark], colour) for m, (mark, colour) in styles(experiment).items()},
        figures=figures_of(experiment),
        galleries=galleries,
        percent=percent,
    )
    make_folder(out, "report")
    # JSON may hold lone surrogates, which UTF-8 has not.
    for name, text in (("summary.csv", experiment.as_csv()), ("report.html", page)):
        atomic_write(out / name, text.encode("utf-8", "replace"))
    return out / "report.html"


def rendered_page(template: str, **values: Any) -> str:
    """Return a page of a template in this folder, with its style inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rho_train", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
