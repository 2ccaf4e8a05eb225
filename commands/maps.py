"""The command that writes points for a viewer of embeddings."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from featcache.commands.completion import complete_array
from featcache.commands.options import (
    CacheOption,
    JsonOption,
    OpenedDatasetArgument,
    RootOption,
    SeedOption,
    dataset_name,
)


def draw_map(
    dataset: OpenedDatasetArgument,
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_array,
            help="[view/]encoder[/layer.pooling][@digest]; one or more.",
        ),
    ],
    projection: Annotated[
        Literal["pca", "umap"],
        typer.Option(help="Principal plane of the unit rows, or UMAP (pip install 'featcache[map]')."),
    ] = "pca",
    neighbors: Annotated[int, typer.Option(help="Nearest neighbours of each point.", min=1)] = 15,
    texts: Annotated[
        bool | None,
        typer.Option("--texts/--no-texts", help="Put texts beside points. Default: where their licence lets others."),
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails", help="Put thumbnails of your own pictures into the file: of a folder, or with --root."
        ),
    ] = False,
    root: RootOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file.")] = Path("map.parquet"),
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Write points, neighbours, labels and texts of cached spaces as Parquet, and print how embedding-atlas opens it.

    Encoders of one view have a point a row, those of several views one a group. Nothing is downloaded.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.maps import show_map
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.maps import MapSettings, map_spaces

    root = own_root(dataset) if root is None else root
    settings = MapSettings(projection, neighbors, texts, thumbnails, root, seed)
    with step_progress("projecting") as on_space:
        result = map_spaces(
            open_cache(cache), str(dataset_name(dataset)), encoders, settings, out=out, on_space=on_space
        )
    show_map(result, as_json=json)


def own_root(typed: str) -> Path | None:
    """The folder of the user's that a data set was named by, where it is there."""
    from featcache.data.open import is_folder_path

    path = Path(typed).expanduser()
    return path if is_folder_path(typed) and path.is_dir() else None
