"""Write docs/command_line.md from the parsers of `rho-ext`: python docs/command_line.py."""

from __future__ import annotations

from pathlib import Path

from rho_train.cli import parsers

HEAD = """# Command line

<!-- Written by docs/command_line.py; do not edit. -->

Every option has a name and may stand in a YAML file, `--config run.yaml`, in which a key stands
once. Options of a task are `--task.OPTION`, and stand under `task_options:` in the file. A task of
your own is `--task module:function`, a method of your own `--import module --method name`. `--out`
is always a folder. After Ctrl-C or a kill the same command goes on. It returns 0 if it is done, 2
for wrong arguments or data, 1 after another error, 130 if it was stopped.
"""
# Options that several commands have with the same meaning: they are listed once.
GROUPS = {
    "train": "Training of the target: demo, train, plan",
    "recipe": "Training of the IL models: demo, train, il compute",
}


def page() -> str:
    """Return the page: a table of options for each command."""
    parts, shared = [HEAD], dict[str, dict[str, str]]()
    known = parsers()
    for command, parser in known.items():
        rows = dict[str, str]()
        for action in parser._actions:
            option = (action.option_strings or [action.dest])[-1]
            group, _, own = option.removeprefix("--").partition(".")
            if (group in GROUPS and not own) or option in ("--help", "--print_config", "command"):
                continue
            words = " ".join(f"{action.help or ''}".split()).replace("|", "\\|")
            default = "" if action.default in (None, "") else f"`{action.default}`"
            row = f"| `{option}` | {default} | {words} |"
            (shared.setdefault(group, {}) if group in GROUPS else rows)[option] = row
        if command and rows:
            parts += [f"## rho-ext {command}\n", f"{parser.description}\n", *table(rows)]
    for group, title in GROUPS.items():
        parts += [f"## {title}\n", *table(shared[group])]
    parts += ["## Options of the built-in tasks\n"]
    tasks = f"{known['demo'].epilog}".partition("--task.OPTION: ")[2]
    parts += [f"- `{task}`".replace(": ", "`: `", 1) for task in tasks.split("; ")]
    return "\n".join(parts) + "\n"


def table(rows: dict[str, str]) -> list[str]:
    """Return the lines of a table of options."""
    return ["| option | default | meaning |", "|---|---|---|", *rows.values(), ""]


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), "utf-8")
