"""Commands that move features between caches, and to and from other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.commands.options import (
    CacheOption,
    DatasetArgument,
    DryRunOption,
    EncoderArgument,
    PatternsArgument,
    PreferOption,
    RemoteArgument,
    YesOption,
    confirm,
    echo,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featcache.cache import Cache


def push(
    remote: RemoteArgument,
    arrays: PatternsArgument = None,
    prefer: PreferOption = None,
    dry_run: DryRunOption = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new Hub repository public; asks first. Default: private.")
    ] = False,
    yes: YesOption = False,
    cache: CacheOption = None,
) -> None:
    """Send features to a folder, a bucket or the Hub.

    Only missing chunks travel, each checked; features, row tables and what was derived go, images and captions never.
    """
    from featcache.cache import Cache, open_cache
    from featcache.report.terminal.sharing import show_terms
    from featcache.sharing.hub_publish import is_public, terms

    store, there = open_cache(cache), Cache(remote)
    if not dry_run and not yes and (public or is_public(there)):
        show_terms(terms(store, arrays or ["*"]))
        confirm("Everybody will be able to read these features. Do the licences allow that?")
    _move(store, there, arrays or ["*"], prefer=prefer, local="source", dry_run=dry_run, public=public)


def pull(
    remote: RemoteArgument,
    arrays: PatternsArgument = None,
    rows: Annotated[
        str | None, typer.Option(metavar="START:STOP", help="Only the chunks that hold these rows.")
    ] = None,
    prefer: PreferOption = None,
    dry_run: DryRunOption = False,
    cache: CacheOption = None,
) -> None:
    """Fetch features from a folder, a bucket or the Hub.

    Only missing chunks travel, and each is checked before it is written. Interrupted, the same command goes on.
    """
    from featcache.cache import Cache, open_cache
    from featcache.selectors import parse_rows

    there, span = open_cache(remote), parse_rows(rows) if rows else None
    _move(there, Cache(cache), arrays or ["*"], prefer=prefer, local="target", dry_run=dry_run, rows=span)


def sync(
    remote: RemoteArgument,
    arrays: PatternsArgument = None,
    prefer: PreferOption = None,
    dry_run: DryRunOption = False,
    cache: CacheOption = None,
) -> None:
    """Pull what is missing here, then push what is missing there."""
    from featcache.cache import Cache
    from featcache.errors import Damaged

    store, there = Cache(cache), Cache(remote)
    damage: list[Damaged] = []
    for local in ("target", "source"):
        source, target = (there, store) if local == "target" else (store, there)
        try:
            _move(source, target, arrays or ["*"], prefer=prefer, local=local, dry_run=dry_run, may_lack=True)
        except Damaged as error:  # an array of one side does not keep the other side's from travelling
            damage.append(error)
    if damage:
        raise damage[0]


def _move(
    source: "Cache",
    target: "Cache",
    selectors: "Sequence[str]",
    *,
    local: Literal["source", "target"],
    prefer: Literal["local", "remote"] | None = None,
    dry_run: bool = False,
    public: bool = False,
    **choices: Any,
) -> None:
    """Moves what one cache lacks from another, under a progress display.

    Args:
        source: Where the arrays are.
        target: Where they go.
        selectors: Which of them.
        local: Which of the two is the user's own.
        prefer: Whose array stays where the bytes differ.
        dry_run: Only show what would travel.
        public: A new Hub repository can be read by everybody.
        choices: Of `plan_transfer`.
    """
    from featcache.errors import Damaged
    from featcache.report.terminal.progress import byte_progress, step_progress
    from featcache.report.terminal.sharing import show_transfer, show_transferred
    from featcache.sharing.hub_publish import is_hub, make_repository, write_card
    from featcache.sharing.transfer import plan_transfer, transfer

    if dry_run and is_hub(target.folder) and not target.folder.there():
        echo(f"{target.folder} is not there yet: a push makes it and sends everything. Nothing was moved.")
        return
    if not dry_run and local == "source":
        make_repository(target, public=public)
    kept = None if prefer is None else ("source" if (prefer == "local") == (local == "source") else "destination")
    with step_progress(f"comparing {source.folder} with {target.folder}"):
        planned = plan_transfer(source, target, selectors, prefer=kept, **choices)
    if dry_run:
        show_transfer(planned)
        return
    try:
        with byte_progress(f"to {target.folder}", planned.bytes) as on_bytes:
            sent = transfer(planned, on_bytes=on_bytes)
    except Damaged:  # the others have arrived
        if local == "source":
            write_card(target)
        raise
    if local == "source" and not write_card(target):
        echo("README.md there was written by someone else and was left as it is.")
    show_transferred(planned, sent)


def export(
    dataset: DatasetArgument,
    encoder: EncoderArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .h5, .hdf5, .npz, .parquet or .safetensors.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    cache: CacheOption = None,
) -> None:
    """Write an array to one file of another format.

    The file also holds ids, groups, splits, labels and the key.
    """
    from featcache.cache import open_cache
    from featcache.interchange.exporting import export_features

    store = open_cache(cache)
    echo(f"Wrote {export_features(store, store.find(dataset, encoder), file, overwrite=overwrite)}")


def import_file(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What export wrote; .npy, .pt or .hdf5 of rows; or another tool's output folder."
        ),
    ],
    dataset: Annotated[str, typer.Option(help="Data set to file it under.")],
    encoder: Annotated[str, typer.Option(help="Encoder to file it under.")],
    layer: Annotated[
        str | None, typer.Option(help="Layer and pooling, such as last.mean. Default: what the format says.")
    ] = None,
    view: Annotated[
        str | None, typer.Option(help="Modality, such as images or captions. Default: the cached view with these ids.")
    ] = None,
    format: Annotated[
        Literal["featcache", "npy", "pt", "thingsvision", "platonic-rep", "clip-retrieval"] | None,
        typer.Option(help="Who wrote it. Default: told from the file."),
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Ids of the rows: .txt, .npy, .csv or .parquet.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids.")] = None,
    modality: Annotated[
        Literal["image", "text", "audio"] | None, typer.Option(help="What the rows show, where the view is new.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None, typer.Option(help="Store as this type. Default: the file's.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Take in features that another tool made, or that export wrote.

    Rows are matched by id with what is cached already. Nothing is unpickled. A file that claims more than it holds is
    refused; a layer of more than 64 GiB is imported with a higher FEATCACHE_MAX_IMPORT_BYTES.
    """
    from featcache.cache import Cache
    from featcache.interchange.formats.contents import ImportOptions
    from featcache.interchange.importing import import_features
    from featcache.report.terminal.console import show_entries

    store = Cache(cache)
    options = ImportOptions(format=format, ids=ids, id_column=id_column, modality=modality, dtype=dtype)
    arrays = import_features(store, source, dataset=dataset, encoder=encoder, layer=layer, view=view, options=options)
    show_entries(store.entries_of(arrays), store, as_json=False)
