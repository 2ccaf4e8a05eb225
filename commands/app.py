"""The list of the commands, and the program that runs one."""

from typing import Annotated

import typer

from featcache.commands import (
    advise,
    alignment,
    cache,
    dials,
    downstream,
    emergence,
    encoders,
    endings,
    extraction,
    maps,
    runs,
    sample,
    sharing,
    study,
    training,
)

app = typer.Typer(
    name="featcache",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        typer.echo(f"featcache {version('featcache')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Extract the features of frozen encoders once; train adapters and measure alignment on the cache."""


COMMANDS = {
    "demo": training.demo,
    "datasets": training.datasets,
    "extract": extraction.extract,
    "cost": extraction.cost,
    "train": training.train,
    "sweep": study.sweep,
    "ledger": study.ledger,
    "embed": training.embed,
    "align": alignment.align,
    "grid": alignment.grid,
    "sample": sample.sample,
    "curve": alignment.curve,
    "ceiling": alignment.ceiling,
    "competence": alignment.competence,
    "probe": downstream.probe,
    "heads": downstream.heads,
    "advise": advise.advise,
    "map": maps.draw_map,
    "runs": runs.runs,
    "report": training.report,
    "ls": cache.list_arrays,
    "show": cache.show,
    "du": cache.usage,
    "verify": cache.verify,
    "repair": cache.repair,
    "rm": cache.remove,
    "mv": cache.move,
    "gc": cache.collect,
    "doctor": cache.doctor,
    "push": sharing.push,
    "pull": sharing.pull,
    "sync": sharing.sync,
    "export": sharing.export,
    "import": sharing.import_file,
}
for name, function in COMMANDS.items():
    app.command(name)(function)
for dial in (dials.swapped, dials.perturb, dials.perturbed, dials.graded):
    emergence.app.command()(dial)
app.add_typer(encoders.app, name="encoders")
app.add_typer(emergence.app, name="emergence")


def main() -> None:
    """Runs a command; an error of ours is one message on stderr and an exit code, as docs/cli.md lists them."""
    import os
    import sys

    # waiting threads sleep instead of spinning, which on a busy machine costs many times the work itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    endings.accept_any_terminal()
    endings.keep_log_lines_safe()
    try:
        _run()
    except KeyboardInterrupt:  # before or behind the command, where typer does not see it
        print(endings.interruption(), file=sys.stderr)
        sys.exit(endings.INTERRUPTED)
    except SystemExit as end:
        if end.code == endings.INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            print(endings.interruption(), file=sys.stderr)
        raise


def _run() -> None:
    import os
    import sys
    import traceback

    from featcache.data.errors import DataError
    from featcache.errors import FeatcacheError
    from featcache.metrics.errors import MetricError

    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is caught
    except BrokenPipeError:  # as in `featcache ls | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(endings.FAILED)  # as typer ends where the pipe closes while it prints
    except (DataError, FeatcacheError, MetricError) as error:
        message = f"{type(error).__name__}: {endings.knowing_encoders(error)}"
        endings.print_error(endings.with_cache(message, sys.argv[1:]))
        sys.exit(endings.exit_code(error))
    except OSError as error:
        endings.print_error(f"{type(error).__name__}: {endings.describe_system_error(error)}")
        sys.exit(endings.FAILED)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # a fault of ours, or a panic of a library: its traceback, which quotes what others wrote
        endings.print_error(traceback.format_exc().rstrip())
        sys.exit(endings.FAILED)
