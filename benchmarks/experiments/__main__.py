"""Run the suites of experiments, and write their results page.

python benchmarks/experiments run --quick
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from page import write_page
from rho_train.experiment import run_experiment
from rho_train.experiment.run import JobsFailed
from rho_train.files import atomic_write, locked, message
from rho_train.progress import Stopped
from suite import FOLDER, VARIANTS, Suite, load, names
from tables import write_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 where something failed, 130 where it was stopped."""
    arguments = _parser().parse_args(argv)
    folder = arguments.suites_in
    if arguments.command == "list":
        for name in names(folder):
            for variant in VARIANTS:
                print(_described(load(name, variant, folder)))
        return 0
    variant = "quick" if getattr(arguments, "quick", False) else "full"
    failed = False
    if arguments.command == "run":
        try:
            chosen = arguments.suites or names(folder)
            suites = [load(name, variant, folder) for name in chosen]
            for suite in suites:
                # A recipe that needs more than this machine runs only when it is asked for.
                if arguments.suites or not suite.status:
                    failed |= _run(suite, arguments)
        except Stopped as stopped:
            print(f"experiments: {stopped}", file=sys.stderr)
            return 130
        except (OSError, ValueError) as error:
            raise SystemExit(f"experiments: {error}") from error
    _draw(folder, arguments.results)
    print(f"page: {write_page(folder, arguments.results)}")
    return int(failed)


def _run(suite: Suite, arguments: argparse.Namespace) -> bool:
    """Run what is not finished of a suite; return whether something failed."""
    place = f"{suite.name}-{suite.variant}"
    out = arguments.out / place
    quick = " --quick" if suite.variant == "quick" else ""
    command = f"python benchmarks/experiments run {suite.name}{quick}"
    origin = {"commit": _commit(), "command": command}
    failed, refused = False, set[str]()
    print(_described(suite))
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "wait for it, or choose another --out"):
        try:
            for cell in suite.cells:
                print(f"{suite.name}: {cell.name or suite.title}")
                try:
                    config, folder = cell.config(arguments.data), out / cell.slug
                    _share_il(out, folder)
                    run_experiment(config, folder, processes=arguments.processes, origin=origin)
                except (ValueError, OSError, JobsFailed) as error:
                    failed = True
                    # Jobs fail in a folder that was accepted.
                    if not isinstance(error, JobsFailed):
                        refused.add(cell.name)
                    for line in message(error).splitlines():
                        print(f"experiments: {place}, {cell.name}: {line}", file=sys.stderr)
                if cell.name not in refused:
                    again = yaml.safe_dump(cell.resolved(arguments.data), sort_keys=False)
                    atomic_write(folder / "experiment.yaml", again)
        finally:
            # Whatever is finished is worth its rows, also after a Ctrl-C.
            results = arguments.results / "results" / place
            write_tables(suite, arguments.data, out, results, command, refused)
    return failed


def _share_il(out: Path, folder: Path) -> None:
    """Let all experiments of a suite keep their irreducible losses in one place.

    Their names tell what they were made from, so a budget or a target more costs none again.
    """
    (out / "il").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "il").exists():
        (folder / "il").symlink_to(Path("..") / "il")


def _commit() -> str:
    """The commit of this tree, with -dirty if it was changed."""
    describe = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(describe, cwd=FOLDER, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _draw(suites: Path, results: Path) -> None:
    try:
        from figures import draw
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"experiments: the figures need {error.name}; pip install 'rho-ext[bench]', then "
            "python benchmarks/experiments page"
        ) from error
    draw(suites, results)


def _described(suite: Suite) -> str:
    runs = sum(len(c.values["methods"]) * len(c.values["seeds"]) for c in suite.cells)
    return f"{suite.name}, {suite.variant}: {len(suite.cells)} experiments, {runs} runs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the suites, and how many runs each has")
    run = commands.add_parser("run", help="run suites; what was cut off goes on")
    run.add_argument("suites", nargs="*", help="names; none: all that are run here")
    run.add_argument("--quick", action="store_true", help="few settings, the small variant")
    run.add_argument("--processes", type=int, default=0, help="at a time; 0: one a core")
    run.add_argument("--out", type=Path, default=Path("runs/experiments"), help="of the runs")
    run.add_argument("--data", type=Path, default=Path("data"), help="holds the folders of sets")
    page = commands.add_parser("page", help="write the page again, from the CSV files")
    for command in (run, page):
        command.add_argument(
            "--results",
            type=Path,
            default=FOLDER,
            help="gets results, figures and RESULTS.md; tuned rates are read from this repository",
        )
    for command in (listing, run, page):
        command.add_argument(
            "--suites-in", type=Path, default=FOLDER, help="a folder with YAML files of your own"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
