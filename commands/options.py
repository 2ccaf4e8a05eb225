"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="PLACE",
        help="Cache: a folder, or s3://, gs://, az://, hf://datasets/. Default: $FEATCACHE_HOME, else the platform's "
        "data folder.",
    ),
]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder that holds the data set's files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
PreferOption = Annotated[
    Literal["local", "remote"] | None,
    typer.Option(help="Whose array stays where the bytes differ. Default: that is an error."),
]
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Data set; see: featcache datasets.")]
PatternArgument = Annotated[
    str, typer.Argument(metavar="ARRAYS", help="dataset[/view[/encoder[/layer]]][@digest]; parts may hold globs.")
]
PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARRAYS", help="dataset[/view[/encoder[/layer]]][@digest]; parts may hold globs. Default: everything."
    ),
]
RemoteArgument = Annotated[
    str, typer.Argument(metavar="REMOTE", help="A folder, or s3://, gs://, az://, hf://datasets/OWNER/NAME.")
]
EncoderArgument = Annotated[
    str, typer.Argument(metavar="ENCODER", help="[view/]encoder[/layer.pooling][@digest], of one array.")
]


def confirm(question: str) -> None:
    """Asks a question that must be answered with yes; without anybody at a terminal to answer, --yes is wanted.

    Raises:
        UsageError: If nobody can answer.
        typer.Abort: If the answer is no.
    """
    import sys

    if sys.stdin is None or not sys.stdin.isatty():
        from featcache.errors import UsageError

        raise UsageError(f"{question} Nobody is at a terminal to answer, and nothing was done\n  Add --yes")
    typer.confirm(question, abort=True)
