"""The command that lists run folders."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.options import JsonOption


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Run folders, or folders that hold them, three deep. Default: runs."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Keep runs of which this condition holds, as \"adapter = 'linear' AND seed < 3\"; columns as --json "
            "names them.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Best first by this metric on validation; or in the order of a setting."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List and compare run folders: the settings in which they differ, and scores on validation and test.

    A run whose files are not what was written is named on stderr and left out.
    """
    from featcache.report.terminal.runs import show_runs
    from featcache.studies.adapters.listing import list_runs

    show_runs(list_runs(folders or [Path("runs")], where=where, sort=sort), sort=sort, as_json=json)
