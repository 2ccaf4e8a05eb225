"""Commands of encoders: those that there are, and entries for others by their ids."""

from typing import Annotated

import typer

from featcache.commands.options import CacheOption, JsonOption, echo

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def encoders(context: typer.Context, json: JsonOption = False) -> None:
    """List the encoders, packaged and your own; add one by its id.

    An entry of your file that is not valid is named on stderr, with what is wrong; the others are listed.
    """
    from featcache.encoders import encoder_specs, invalid_entries
    from featcache.report.terminal.encoders import show_encoders

    if context.invoked_subcommand is None:
        show_encoders(list(encoder_specs().values()), json=json)
        for error in invalid_entries().values():
            echo(f"{type(error).__name__}: {error}", err=True)


@app.command()
def add(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="hf:ORG/NAME, timm:NAME, open_clip:ARCHITECTURE/TAG or a folder, hf:./folder; with @REVISION and "
            "#image, #text or #audio if wanted.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the entry. Default: made of the id. Of two towers: NAME, NAME-text.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Add an encoder of the Hub, of timm or of a folder of yours to your file of encoders, and print its entry.

    The entry is generated from what the repository states: modality, blocks, poolings, tokens before the patches,
    preprocessing, type. Its commit is written down. What cannot be described without guessing is refused, with what to
    declare: docs/encoders.md.
    """
    from featcache.cache import Cache
    from featcache.encoders import add_entries, described
    from featcache.report.terminal.encoders import show_added

    path, specs = add_entries(described(id, memo=Cache(cache).memo), name=name)
    show_added(path, specs)
