"""A budget in minutes: as many steps as take the training seconds of another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SameMinutes:
    """A budget: the training seconds of another variant's run with the same seed.

    `steps = floor(seconds(of) / (seconds(pace) / steps(pace)))`, evaluation not counted. This is
    the baseline of "No Train No Gain" (Kaddour et al., NeurIPS 2023): with a learning rate that
    decays over exactly these steps. It is a budget of `rho_train.Variant`.

    Args:
        of: the variant whose seconds are given.
        pace: a variant of the same model, batch and selection as this one: its seconds a step.
        il: whether the seconds of the irreducible losses of `of` count as well. Those that this
            variant itself uses are taken off.

    Example:
        >>> SameMinutes("rho", "uniform").needs
        ('rho', 'uniform')
    """

    of: str
    pace: str
    il: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the variants whose runs must be finished."""
        return self.of, self.pace

    def steps(self, runs: Mapping[str, Path], own_il_seconds: float) -> int:
        """Return the steps of a run.

        Raises:
            ValueError: a run is not finished, or there is no time for a single step.
        """
        given, reference = _end(runs[self.of]), _end(runs[self.pace])
        seconds = given["seconds"]
        if self.il:
            seconds += given["il_seconds"] - own_il_seconds
        steps = int(seconds * reference["step"] / reference["seconds"])
        if steps < 1:
            raise ValueError(
                f"the minutes of {self.of} leave {seconds:.3f} seconds, less than a step takes; "
                "give them to a variant with cheaper irreducible losses, or use il=False"
            )
        return steps


def _end(run: Path) -> dict[str, Any]:
    path = run / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if last.get("event") != "end":
        raise ValueError(f"{run} holds no finished run; its minutes are not known")
    return last
