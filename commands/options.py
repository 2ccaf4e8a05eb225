"""Arguments and options that several commands share."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.commands.completion import complete_array, complete_dataset
from featcache.printing import safe_text

if TYPE_CHECKING:
    from featcache.data.options import OpenOptions


def dataset_name(text: str | None) -> str | None:
    """What the cache calls a data set that was named, perhaps by its folder."""
    from featcache.data.open import dataset_name as cached_name

    return None if text is None else cached_name(text)


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
FloatRangeOption = Annotated[
    str | None,
    typer.Option(
        "--float-range",
        metavar="BLACK:WHITE",
        help="Values that are black and white in floating-point and 32-bit images, as in 0:1; without it they are "
        "refused.",
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help="How your data lies: images, coco, webdataset or parquet. Default: what its files tell.",
    ),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Column of Parquet files, or field of WebDataset samples, that holds the image, caption, id, group, split "
        "or label; once each, caption and label several times. Default: guessed where clear.",
    ),
]
AllowMissingOption = Annotated[
    bool,
    typer.Option("--allow-missing", help="Leave out images that a list names and that are not there; says how many."),
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", help="What is kept of each clip of sound, from its beginning. Default: 10.", min=0.025),
]
FramesOption = Annotated[
    int,
    typer.Option("--frames", help="Pictures that are taken of each video, evenly spaced; one is the middle.", min=1),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
TableOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write a tidy table here, as Parquet: replaced if it is there."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print everything that was measured, not the answer and few numbers.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
PreferOption = Annotated[
    Literal["local", "remote"] | None,
    typer.Option(
        help="Whose array stays where the bytes differ, and whose rows are current where both sides have moved on. "
        "Default: the first is an error, the second is said and left."
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        callback=dataset_name,
        autocompletion=complete_dataset,
        help="Data set (featcache datasets), hub:ORG/NAME, or your folder: ./my_images.",
    ),
]
OpenedDatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        autocompletion=complete_dataset,
        help="Data set (featcache datasets), hub:ORG/NAME[:CONFIG][@REVISION], or a folder of yours: ./my_images.",
    ),
]
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
    str,
    typer.Argument(
        metavar="ENCODER", autocompletion=complete_array, help="[view/]encoder[/layer.pooling][@digest], of one array."
    ),
]


def declared_options(
    *,
    float_range: str | None = None,
    split: str | None = None,
    seed: int = 0,
    layout: str | None = None,
    column: list[str] | None = None,
    allow_missing: bool = False,
    seconds: float | None = None,
    frames: int = 1,
) -> "OpenOptions":
    """What a command declares of the user's own data.

    Raises:
        typer.BadParameter: If a declaration has another form.
    """
    from featcache.data.errors import DataInvalid
    from featcache.data.options import SECONDS, OpenOptions, parse_columns

    try:
        columns = parse_columns(column or [])
    except DataInvalid as error:
        raise typer.BadParameter(str(error)) from None
    return OpenOptions(
        float_range=parse_range(float_range),
        split=split,
        seed=seed,
        layout=layout,
        column=columns,
        allow_missing=allow_missing,
        seconds=SECONDS if seconds is None else seconds,
        frames=frames,
    )


def parse_range(text: str | None) -> tuple[float, float] | None:
    """The two numbers of "0:1", the first the smaller; None for None.

    Raises:
        typer.BadParameter: If it is anything else.

    Example:
        >>> parse_range("-1:1")
        (-1.0, 1.0)
    """
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        values = float(low), float(high)
    except ValueError:
        values = (math.nan, math.nan)
    if not values[0] < values[1] or not all(map(math.isfinite, values)):
        raise typer.BadParameter(f"{text!r} is no range: two numbers, the smaller first, as in --float-range 0:1")
    return values


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
    typer.confirm(safe_text(question), abort=True)


def echo(text: str, *, err: bool = False) -> None:
    """Prints a line on stdout or stderr, whatever names stand in it."""
    typer.echo(safe_text(text), err=err)
