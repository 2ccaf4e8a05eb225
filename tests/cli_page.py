"""What does docs/cli.md say? Every command's --help; run this module to write the page anew."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from featcache.commands.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Commands

What `featcache COMMAND --help` prints; written by `make docs`, and a test keeps the two equal. Exit codes:

- 0: done.
- 1: it failed, as where features are not cached, a row cannot be read, the disk is full or a remote refuses; or
  `verify`, `repair` or `doctor` found something wrong.
- 2: the request is wrong and has to be changed: an unknown option, command or name, a value out of its range, settings
  that contradict each other, a question that nobody is there to answer.
- 130: interrupted (Ctrl-C); the message says what of the work is kept.

Every error is one message on stderr. A terminal or pipe that is not UTF-8 gets plain characters in place of those that
it lacks, and JSON in escapes.

`featcache --install-completion` makes the shell complete commands, options, data sets, encoders and cached arrays
(bash, zsh, fish, PowerShell); it reads a cache on this disk, and asks no network.
"""


def command_names() -> list[str]:
    """Every command, in the order of the help page; one of a group with the group's name before it."""
    names: list[str] = []
    for name, command in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        names += [name, *(f"{name} {one}" for one in getattr(command, "commands", ()))]
    return names


def help_page() -> str:
    """The page: the help of the whole, then one section a command."""
    parts = [HEAD, _block([])]
    for name in command_names():
        parts += [f"## {name}\n", _block(name.split())]
    return "\n".join(parts)


def _block(command: list[str]) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], prog_name="featcache", env={"COLUMNS": "110"})
    lines = [line.rstrip() for line in result.stdout.strip().split("\n")]
    return "```text\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(help_page(), encoding="utf-8")
