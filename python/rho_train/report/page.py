"""Writing the report of an experiment into its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rho_train.files import atomic_write
from rho_train.report.figures import make_figures, styles
from rho_train.report.headline import headline
from rho_train.report.read import read_experiment
from rho_train.report.summary import COLUMNS, as_csv, left_out_lines, summarize, target_meaning
from rho_train.report.svg import STYLE, sign, standalone


def write_report(out: Path) -> Path:
    """Write `out/report.html`, one file without network use, `figures/*.svg` and `summary.csv`.

    Returns:
        The path of the page. Each file appears whole or not at all.

    Raises:
        ValueError: see `read_experiment`.
        OSError: `out` cannot be written.

    Example:
        >>> write_report(Path("runs/demo"))  # doctest: +SKIP
        PosixPath('runs/demo/report.html')
    """
    out = Path(out)
    experiment = read_experiment(out)
    summary = summarize(experiment)
    figures = make_figures(experiment, summary)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_packaged("template.html"))
    signs = {name: Markup(sign(style)) for name, style in styles(experiment).items()}
    page = template.render(
        experiment=experiment,
        headline=headline(summary),
        columns=COLUMNS,
        rows=[
            (
                row.method.name,
                row.method.label,
                signs[row.method.name],
                [column.cell(row) for column in COLUMNS],
            )
            for row in summary.methods
        ],
        target=target_meaning(summary),
        left_out=left_out_lines(summary),
        figures=[(figure, Markup(figure.svg)) for figure in figures],
        selection=Markup(_packaged("selection.svg")),
        config=list(_flat(experiment.config)),
        environment=list(_flat(experiment.environment)),
        style=Markup(STYLE),
    )
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    for figure in figures:
        atomic_write(folder / f"{figure.name}.svg", _bytes(standalone(figure.svg)))
    atomic_write(out / "summary.csv", as_csv(summary))
    atomic_write(out / "report.html", _bytes(page))
    return out / "report.html"


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
