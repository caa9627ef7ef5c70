"""Options in a YAML file, read so that nothing in it can mean something else."""

from __future__ import annotations

import json
import re
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, set_loader  # type: ignore[attr-defined]

_FLOAT = r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?\.inf|\.nan"
_CLEAR = re.compile(f"true|false|null|~||{_FLOAT}", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    """Refuses keys that are given twice, and what is a text for some readers of YAML only."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines = dict[str, int]()
        for key, _ in node.value:
            name, line = f"{key.value}", key.start_mark.line + 1
            if name in lines:
                again = f"the key {name} is given again, first in line {lines[name]}; keep one"
                raise yaml.YAMLError(f"line {line}: {again}")
            lines[name] = line
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        if node.style is None and kind != "str" and not _CLEAR.fullmatch(node.value):
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {node.value} is a text for some readers of YAML "
                f"and of type {kind} for others; write a decimal number, true or false, or quote it"
            )
        return super().construct_scalar(node)


# YAML 1.1 takes 1e-3 as a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT})$", re.IGNORECASE), list("-+.0123456789")
)


# Lists and mappings on the command line are read so too; one that means two things stays a text.
MODE = "rho-ext"
set_loader(MODE, lambda text: yaml.load(text, _Loader), (yaml.YAMLError, RecursionError))


class ConfigFile(ActionConfigFile):
    """The action of `--config FILE`."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Apply the options in the file; an ArgumentError names the file, its line and the fix."""
        try:
            options = yaml.load(Path(values).read_text("utf-8-sig"), _Loader)
            if not isinstance(options, dict):
                raise ValueError("must hold options by name, as 'method: rho'")
            if dotted := [f"{key}" for key in options if "." in f"{key}"]:
                fix = "nest it, as 'train: {steps: 9}'; options of the task are in task_options"
                raise ValueError(f"the key {dotted[0]} has a dot; {fix}")
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else " ".join(f"{error}".split())
            if isinstance(error, UnicodeDecodeError):
                reason = f"is no UTF-8 text ({reason}); save it as UTF-8"
            raise ArgumentError(None, f"--config {values}: {reason}") from error
        self.apply_config(parser, cfg, self.dest, json.dumps(options, default=str))
