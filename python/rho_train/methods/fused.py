"""Methods that rank by one of the five scores of `rho_ext.select`."""

from __future__ import annotations

from dataclasses import dataclass

from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import register

_NEEDS: dict[str, tuple[str, ...]] = {
    "rho": ("il",),
    "loss": (),
    "neg_il": ("il",),
    "grad_norm": ("logits",),
    "entropy": ("logits",),
}


@dataclass(frozen=True)
class Scored:
    """A method with one of the five scores in its formula."""

    score: str = "rho"

    def __post_init__(self) -> None:
        if self.score not in _NEEDS:
            name, known = type(self).__name__, ", ".join(_NEEDS)
            raise ValueError(f"{name}: score must be one of {known}, got {self.score!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Irreducible losses or all logits, if they are in the score."""
        return _NEEDS[self.score]


@dataclass(frozen=True)
class Fused(Scored):
    """Top k of one score, by `rho_ext.select`.

    `rho` = CE - IL (Mindermann et al., ICML 2022, eq. 3); `loss` = CE (Loshchilov and Hutter, 2015,
    without their sampling); `neg_il` = -IL; `grad_norm` = ||softmax(z) - onehot(y)||_2
    (Katharopoulos and Fleuret, ICML 2018, section 3.2, for the logits); `entropy` =
    H[softmax(z)]. All five are baselines of the paper, section 4.
    """

    pointwise = True

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest score."""
        return context.select(self.score)


for _name in _NEEDS:
    register(_name)(Fused(_name))
