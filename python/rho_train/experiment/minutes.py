"""Baselines that get the minutes of another method, and how many steps these are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rho_train.files import atomic_write

Charge = Literal["charged", "reused"]


@dataclass(frozen=True)
class SameMinutes:
    """As many steps as take the training seconds of another method's run with the same seed.

    `steps = floor(seconds(of) / (seconds(pace) / steps(pace)))`, evaluation not counted. This is
    the baseline of "No Train No Gain" (Kaddour et al., NeurIPS 2023): with a learning rate that
    decays over exactly these steps.

    Args:
        of: the method whose seconds are given.
        pace: a method of the same model, batch and selection as this one: its seconds a step.
        il: whether the seconds of the irreducible losses count as well, `charged`, or not, as where
            they are there already, `reused`. Those that this method itself uses are taken off.
    """

    of: str
    pace: str
    il: Charge = "charged"

    def __post_init__(self) -> None:
        if self.il not in get_args(Charge):
            raise ValueError(
                f"SameMinutes: il must be one of {', '.join(get_args(Charge))}, got {self.il!r}"
            )

    def __str__(self) -> str:
        return f"the minutes of {self.of}, IL {self.il}, at the pace of {self.pace}"


def steps_in(minutes: SameMinutes, of: Path, pace: Path, run: Path, own_il: float) -> int:
    """Return how many steps the run in the folder `run` makes, and remember it there.

    A second call returns the same number: seconds vary, and a run that goes on must not change
    its plan.

    Args:
        minutes: what was asked for.
        of, pace: the folders of the two finished runs.
        run: the folder of the run that is planned.
        own_il: the seconds of the irreducible losses that this run uses.

    Raises:
        ValueError: a run is not finished, the plan is damaged or was made for something else, or
            there is no time for a single step.
        OSError: the plan cannot be written.
    """
    path, wanted = run / "plan.json", asdict(minutes)
    if path.exists():
        try:
            plan = json.loads(path.read_text())
            found, steps = plan["minutes"], plan["steps"]
            if not isinstance(steps, int) or steps < 1:
                raise ValueError(f"steps is {steps}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete the folder {run}") from error
        if found != wanted:
            raise ValueError(f"{path} was made for {found}, not {wanted}; delete the folder {run}")
        return steps
    given, reference = _end(of), _end(pace)
    seconds = given["seconds"]
    if minutes.il == "charged":
        seconds += given["il_seconds"] - own_il
    steps = int(seconds * reference["step"] / reference["seconds"])
    if steps < 1:
        raise ValueError(
            f"the minutes of {minutes.of} leave {seconds:.3f} seconds, less than a step takes; "
            "give them to a method with cheaper irreducible losses, or use il: reused"
        )
    plan = {
        "minutes": wanted,
        "seconds": seconds,
        "seconds_a_step": reference["seconds"] / reference["step"],
        "steps": steps,
    }
    run.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(plan, indent=1))
    return steps


def _end(run: Path) -> dict[str, Any]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if last.get("event") != "end":
        raise ValueError(f"{run} holds no finished run; its minutes are not known")
    return last
