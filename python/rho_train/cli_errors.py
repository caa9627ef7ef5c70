"""Explain wrong arguments of the command line, and read its YAML."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader

from rho_train.tasks.task import BUILT_IN, options_of, task_function

# By a pattern of what jsonargparse says, what is printed.
_SAID = (
    (r'Parser key "(\w+)": .*NestedArg\(key=\'([\w.]+)\'.*', r"there is no option --\1.\2"),
    (r'Parser key "([\w.]+)": Expected an? (.+)\. Got value: (.*)', r"--\1 must be \2, got '\3'"),
    (r'Parser key "([\w.]+)": ', r"--\1: "),
    (r"Unexpected config: ?(.*)", r"--config must hold options, as seed: 1; got \1"),
    (r"<class '(int|float)'>", r"a number (\1)"),
    (r"<class 'tuple'>, got '(.*)'", r"a list, as [\1], got '\1'"),
    (r"Does not validate .* - Expected a <class 'dict'>.*", "give its parts, as --task.noise 0.1"),
    (r"<class 'bool'>", r"true or false"),
    (r"typing\.Literal\[(.*?)\]", r"one of \1"),
    (r"argument command: invalid choice: '(.*?)' .*", r"there is no command '\1'"),
    (
        r'expected "([\w.]*command)" to be one of \{(.*)\}, but.*',
        r"a command is missing, one of \2",
    ),
    (r"unrecognized arguments: (-.*)", r"there is no option \1"),
    (r"unrecognized arguments: (.*)", r"options have names, as --out \1; got '\1'"),
    (r"argument (--[\w.]+): expected one argument", r"\1: a value is missing"),
    (r"the following arguments are required: (?:\w+\.)*(\w+)", r"the argument '\1' is missing"),
    (r"got an unexpected .* '(\w+)'; its options are (.*)", r"options are one of \2, got '\1'"),
    (r"Subcommand '.*' does not accept option '([\w.]+)'", r"there is no option --\1"),
)


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_plain_yaml = get_loader("yaml")


class _UniqueKeys(_Loader):  # type: ignore[misc]
    """Refuse a key that stands twice: the first of its values would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set[str]()
        for key, _ in node.value:
            if f"{key.value}" in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key '{key.value}' stands twice, again in line {line}")
            seen.add(f"{key.value}")
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text; yaml.YAMLError if it is none, or a key stands twice."""
    value = _plain_yaml(text)
    yaml.load(text, _UniqueKeys)
    return value


def explained(
    text: str, given: Sequence[str], command: str, parsers: Mapping[str, ArgumentParser]
) -> str:
    """Return an error in our words, with what may have been meant by a wrong argument."""
    for pattern, words in _SAID:
        text = re.sub(pattern, words, text)
    if config := re.search(r"--config[= ](\S+)", " ".join(given)):
        text = text.replace("Problems parsing config:", f"--config {config[1]}:")
        text = text.replace('in "<unicode string>",', "in")
    found = re.search(r"no (option|command) '?([\w.-]+)|one of (.*), got '(\w+)'", text)
    if not found:
        return text
    kind, word, values, value = found.groups()
    options = [*parsers[command]._option_string_actions]
    if "--task" in options:
        tasks = (options_of(task_function(task)) for task in BUILT_IN)
        options += [f"--task.{one.partition('=')[0]}" for task in tasks for one in task]
    names = options if kind == "option" else parsers if kind else re.findall(r"\w+", values)
    # By the whole, then by the last part alone, as --steps of --train.steps.
    parts = {f"--{o.lstrip('-').rpartition('.')[2]}": o for o in reversed(options)}
    for one in ({n.rpartition(" ")[2]: n for n in names}, parts if kind == "option" else {}):
        if near := difflib.get_close_matches((word or value).lower(), one, 1, 0.8 if kind else 0.6):
            return f"{text}; did you mean {one[near[0]]}?"
    others = [name for name, parser in parsers.items() if word in parser._option_string_actions]
    return f"{text}; it is an option of {', '.join(others)}" if others else text


def say(kind: str, text: str) -> None:
    """Print on standard error, the kind in red on a terminal."""
    if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        kind = f"\033[31m{kind}\033[0m"
    print(f"rho-ext: {kind}{text}", file=sys.stderr)
