"""Run the suites of experiments, and write their rows, figures and tables.

python benchmarks/experiments run properties --quick
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The scripts of benchmarks/ import each other from there.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import derive  # noqa: E402
from experiments.suite import FOLDER, load, names  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 where something failed, 130 where it was stopped."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        for name in names():
            for variant in ("quick", "full"):
                suite = load(name, variant)
                runs = len(suite.cells) * len(suite.methods) * len(suite.options["seeds"])
                print(f"{name}, {variant}: {len(suite.cells)} comparisons, {runs} runs")
        return 0
    # Imported here, because they need torch and matplotlib.
    import tables
    from experiments import figures, run
    from rho_train import Stopped

    variant = "quick" if arguments.quick else "full"
    # A suite that was only tried out leaves the rows of the repository alone.
    tried = arguments.steps is not None or arguments.seeds is not None
    place = arguments.results or (arguments.out if tried else FOLDER)
    results = place / "results"
    failed = False
    try:
        for name in arguments.suites or names():
            suite = run.shortened(load(name, variant), arguments.steps, arguments.seeds)
            # A recipe that needs more than this machine runs only when it is asked for.
            if suite.status and not arguments.suites:
                continue
            wrong, curves = run.run(
                suite, arguments.data, arguments.out, arguments.processes, results
            )
            failed |= wrong
            rows = derive.read_runs(name, results)
            figures.draw(suite, rows, curves, place / "figures")
    except Stopped as stopped:
        print(f"experiments: {stopped}", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        raise SystemExit(f"experiments: {error}") from error
    if place == FOLDER:
        tables.main([])
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the suites, and how many runs each has")
    run = commands.add_parser("run", help="run suites; what was cut off goes on")
    run.add_argument("suites", nargs="*", help="names; none: all that can run here")
    run.add_argument("--quick", action="store_true", help="few settings, the small variant")
    run.add_argument("--steps", type=int, help="steps of a run, to try a suite out")
    run.add_argument("--seeds", type=int, help="how many of the seeds")
    run.add_argument("--processes", type=int, default=0, help="at a time; 0: one a core")
    run.add_argument("--out", type=Path, default=Path("runs/experiments"), help="of the runs")
    run.add_argument("--data", type=Path, default=Path("data"), help="holds the folders of sets")
    run.add_argument(
        "--results",
        type=Path,
        help="gets rows and figures; by default this folder, --out with --steps or --seeds",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
