"""What can be typed? Each command parses, makes one call, and renders."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="featcache",
    help="Extract the features of frozen encoders once; train adapters and measure alignment on the cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Cache folder. Default: $FEATCACHE_HOME, else the platform's data folder."),
]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder that holds the data set's files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Data set; see: featcache datasets.")]
DatasetGlob = Annotated[str, typer.Argument(metavar="[DATASET]", help="Only this data set; may hold globs.")]


@app.command()
def extract(
    dataset: DatasetArgument,
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...", help="Encoders; see: featcache encoders.")],
    root: RootOption = None,
    cache: CacheOption = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to keep, such as last,0 or last.mean. Default: every layer.")
    ] = None,
    view: Annotated[str | None, typer.Option(help="View to encode. Default: the first that fits the encoder.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Local copy of the encoder's repository.")] = None,
    random: Annotated[int | None, typer.Option(help="Seed of random weights, as a control.", metavar="SEED")] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, mps.")] = "cpu",
    autocast: Annotated[str | None, typer.Option(help="Compute in bfloat16 or float16; bound in the digest.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Store as float16 or float32 instead of the encoder's own.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
) -> None:
    """Write the features of a data set into the cache, one pass an encoder."""
    from data import open_dataset
    from featcache.cache import Cache
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extract import extract as run
    from featcache.jobs import plan_job
    from report.console import run_jobs, show_jobs

    options = EncodeOptions(weights, random is not None, random or 0, device, autocast, compile, dtype=dtype)
    store, specs = Cache(cache), [encoder_spec(name) for name in encoders]
    data = open_dataset(dataset, root=root)
    chosen = layers.split(",") if layers else None
    jobs = [plan_job(store, data, spec, options, view=view, layers=chosen) for spec in specs]
    if dry_run:
        show_jobs(jobs, store)
    else:
        run_jobs(jobs, lambda job, advance: run(store, job, on_rows=advance))


@app.command("ls")
def list_arrays(dataset: DatasetGlob = "*", cache: CacheOption = None, json: JsonOption = False) -> None:
    """List what is cached."""
    from featcache.cache import open_cache
    from report.console import show_entries

    store = open_cache(cache)
    show_entries(store.entries(dataset), store, as_json=json)


@app.command()
def show(
    dataset: DatasetArgument,
    selectors: Annotated[
        list[str],
        typer.Argument(metavar="SELECTOR...", help="[view/]encoder[/layer.pooling][@digest]; two to compare."),
    ],
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show an array's key and provenance, or how two arrays differ."""
    from featcache.cache import open_cache
    from featcache.key import differences
    from report.console import show_keys

    store = open_cache(cache)
    found = [store.find(dataset, selector) for selector in selectors[:2]]
    keys = [{**array.key().to_json(), "root": array.complete().root} for array in found]
    show_keys(keys, differences(keys[0], keys[-1]), as_json=json)


@app.command()
def verify(dataset: DatasetGlob = "*", cache: CacheOption = None, json: JsonOption = False) -> None:
    """Check every byte of the cache; exit code 1 if anything is not as recorded."""
    from featcache.cache import open_cache
    from featcache.verify import verify as check
    from report.console import show_problems

    store = open_cache(cache)
    arrays = len(list(store.arrays(dataset)))
    raise typer.Exit(show_problems(check(store, dataset), arrays, store, as_json=json))


@app.command("rm")
def remove(
    dataset: DatasetArgument,
    selectors: Annotated[
        list[str],
        typer.Argument(metavar="SELECTOR...", help="[view/]encoder[/layer.pooling][@digest]; parts may hold globs."),
    ],
    cache: CacheOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and stop.")] = False,
) -> None:
    """Delete arrays from the cache."""
    from featcache.cache import open_cache
    from report.console import show_entries

    store = open_cache(cache)
    arrays = [array for selector in selectors for array in store.select(dataset, selector)]
    show_entries([store.entry(array) for array in arrays], store, as_json=False)
    for array in arrays if not dry_run else ():
        store.remove(array)
    typer.echo("Nothing was deleted (--dry-run)." if dry_run else "Deleted.")


@app.command()
def encoders(json: JsonOption = False) -> None:
    """List the encoders, packaged and your own."""
    from featcache.encoders import encoder_specs
    from report.console import print_json, print_table

    specs = encoder_specs()
    if json:
        print_json([spec.model_dump() for spec in specs.values()])
        return
    rows = [
        (s.name, s.modality, s.library, s.source.repo or s.source.package or s.source.folder, s.default, s.licence)
        for s in specs.values()
    ]
    print_table(("encoder", "modality", "library", "weights", "default layer", "licence"), rows)


@app.command()
def datasets(json: JsonOption = False) -> None:
    """List the data sets."""
    from report.console import show_datasets

    show_datasets(as_json=json)


def main() -> None:
    """Runs a command; an error of ours is one message on stderr and exit code 1."""
    import sys

    from data.errors import DataError
    from featcache.errors import FeatcacheError

    try:
        app()
    except (DataError, FeatcacheError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted. What was committed stays: run the same command again to go on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
