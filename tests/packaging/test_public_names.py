"""The public names of both packages: a change of one is a change of these lists."""

from __future__ import annotations

from types import ModuleType

import pytest

import rho_ext
import rho_train

RHO_EXT = """
    Scores Selection build_info reference score select use_il workspace
"""
RHO_TRAIN = """
    AgreementSampler Batch EqualCost History ILRecipe ILStore IndexedDataset JobsFailed
    LargeBatchSampler LinearScores OnlineModel Scoring Selector Stopped Task TokenSelection
    TrainConfig Trainer Variant compare crossfit_il find_duplicates find_wrong_labels
    fingerprint gce_losses holdout_il input_checksums linear_cross_entropy linear_score loader
    plan pretrained_il register score_examples select_tokens sequence_losses token_losses
    vocabulary_parallel_score
"""


@pytest.mark.parametrize(("package", "names"), [(rho_ext, RHO_EXT), (rho_train, RHO_TRAIN)])
def test_public_names(package: ModuleType, names: str) -> None:
    assert package.__all__ == names.split()
    # Else `from rho_ext import *` and `rho_ext.` in an editor would show others.
    shown = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    modules = {name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)}
    assert shown | modules == set(package.__all__)
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), f"{name} has no docstring"
