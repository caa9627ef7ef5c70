"""The k rows with the highest score, in one pass over the logits."""

from __future__ import annotations

from dataclasses import dataclass

from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import register

SCORES = ("rho", "loss", "neg_il", "grad_norm", "entropy")
_NEEDS = {"rho": ("il",), "neg_il": ("il",), "grad_norm": ("logits",), "entropy": ("logits",)}


def check_score(where: str, score: str) -> None:
    """Refuse what `rho_ext.select` has no formula for.

    Raises:
        ValueError: unknown score.
    """
    if score not in SCORES:
        raise ValueError(f"{where}: score must be one of {', '.join(SCORES)}, got {score!r}")


def needs_of_score(score: str) -> tuple[str, ...]:
    """Return what a method that ranks by `score` needs."""
    return _NEEDS.get(score, ())


@dataclass(frozen=True)
class Fused:
    """Top-k of one score, by `rho_ext.select`.

    `rho` = CE - IL (Mindermann et al., ICML 2022, eq. 3); `loss` = CE (Loshchilov and Hutter, 2015,
    without their sampling); `neg_il` = -IL; `grad_norm` = ||softmax(z) - onehot(y)||_2
    (Katharopoulos and Fleuret, ICML 2018, section 3.2, for the logits); `entropy` =
    H[softmax(z)]. All five are baselines of the paper, section 4.

    Example:
        >>> Fused("rho").needs
        ('il',)
    """

    score: str
    pointwise = True

    def __post_init__(self) -> None:
        check_score("Fused", self.score)

    @property
    def needs(self) -> tuple[str, ...]:
        """Irreducible losses or all logits, if they are in the formula."""
        return needs_of_score(self.score)

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest score."""
        return context.select(self.score)


for _name in SCORES:
    register(_name)(Fused(_name))
