"""Experiments from YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from rho_train.experiment.config import ExperimentConfig


def load_experiment(path: Path) -> ExperimentConfig:
    """Read an experiment from a YAML file with the fields of ExperimentConfig.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML mapping, or see `make_experiment`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load_experiment: there is no file {path}; check the path")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"load_experiment: {path} is no YAML file ({error})") from error
    try:
        return make_experiment(values)
    except ValueError as error:
        raise ValueError(f"load_experiment: {path}: {error}") from error


def make_experiment(values: Mapping[str, Any]) -> ExperimentConfig:
    """Make an experiment from plain values.

    Raises:
        ValueError: an option is unknown, missing, of another type or impossible.

    Example:
        >>> methods = [{"name": "uniform", "label": "Uniform", "select": "uniform"}]
        >>> make_experiment({"title": "t", "description": "d", "methods": methods, "seeds": [0],
        ...     "baseline": "uniform", "train": {"steps": 5}}).train.steps
        5
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"an experiment must be a mapping of options, got {values!r:.60}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ExperimentConfig)
    try:
        parsed = parser.parse_object(dict(values))
        made = ExperimentConfig(**vars(parser.instantiate(parsed)))
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    return made
