"""What can be typed? Each command parses, makes one call, and renders."""

from pathlib import Path
from typing import Annotated, Literal

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
DatasetGlob = Annotated[str, typer.Argument(metavar="DATASET", help="Only this data set; may hold globs.")]


@app.command()
def extract(
    dataset: DatasetArgument,
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER", help="Encoders; see: featcache encoders.")],
    root: RootOption = None,
    cache: CacheOption = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to keep, such as last,0 or last.mean. Default: every layer.")
    ] = None,
    view: Annotated[str | None, typer.Option(help="View to encode. Default: the first that fits the encoder.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Local copy of the encoder's repository.")] = None,
    random: Annotated[
        int | None, typer.Option(help="Seed of random weights, as a control.", metavar="SEED", min=0)
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, mps.")] = "cpu",
    autocast: Annotated[
        Literal["bfloat16", "float16"] | None, typer.Option(help="Compute in a shorter type; bound in the digest.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None, typer.Option(help="Store as this instead of the encoder's own type.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and stop.")] = False,
) -> None:
    """Write a data set's features into the cache.

    One pass of an encoder keeps every layer. What is cached is not computed again, and an interrupted extraction goes
    on where it stopped.
    """
    from data import open_dataset
    from featcache.cache import Cache
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extract import extract as run
    from featcache.jobs import plan_job
    from report.console import run_jobs, show_jobs

    options = EncodeOptions(weights, random is not None, random or 0, device, autocast, compile, dtype)
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
        typer.Argument(metavar="SELECTOR", help="[view/]encoder[/layer.pooling][@digest]; two to compare."),
    ],
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show an array's key, or how two arrays differ."""
    from featcache.cache import open_cache
    from featcache.key import differences
    from report.console import show_keys

    store = open_cache(cache)
    if len(selectors) > 2:
        raise typer.BadParameter("name one array to show, or two to compare")
    found = [store.find(dataset, selector) for selector in selectors]
    keys = [{**array.key().to_json(), "root": array.complete().root} for array in found]
    show_keys(keys, differences(keys[0], keys[-1]), as_json=json)


@app.command()
def verify(dataset: DatasetGlob = "*", cache: CacheOption = None, json: JsonOption = False) -> None:
    """Check every byte of the cache; exit code 1 on damage."""
    from featcache.cache import open_cache
    from featcache.verify import verify as check
    from report.console import show_problems

    store = open_cache(cache)
    raise typer.Exit(show_problems(check(store, dataset), store.entries(dataset), store, as_json=json))


@app.command("rm")
def remove(
    dataset: DatasetArgument,
    selectors: Annotated[
        list[str],
        typer.Argument(metavar="SELECTOR", help="[view/]encoder[/layer.pooling][@digest]; parts may hold globs."),
    ],
    cache: CacheOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and stop.")] = False,
) -> None:
    """Delete arrays from the cache."""
    from featcache.cache import open_cache
    from report.console import show_entries

    store = open_cache(cache)
    found = [array for selector in selectors for array in store.select(dataset, selector)]
    arrays = list({array.path: array for array in found}.values())
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
    from data import DATASETS
    from report.console import print_json, print_table

    found = list(DATASETS.values())
    if json:
        print_json(
            [{"name": d.name, "views": d.views, "description": d.description, "licence": d.licence} for d in found]
        )
        return
    rows = [(d.name, ", ".join(d.views), d.description, d.licence) for d in found]
    print_table(("data set", "views", "what", "licence"), rows)


@app.command()
def train(
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Data set. Default: flickr30k if cached, else openmoji.")
    ] = None,
    x: Annotated[str | None, typer.Option(help="One side: [view/]encoder[/layer.pooling][@digest].")] = None,
    y: Annotated[str | None, typer.Option(help="The other side.")] = None,
    reference: Annotated[str | None, typer.Option(help="The stronger encoder to measure against.")] = None,
    adapter: Annotated[
        Literal["linear", "mlp", "bottleneck"] | None, typer.Option(help="Kind of both adapters.  [default: linear]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, every one of them measured.  [default: 20]")] = None,
    width: Annotated[int | None, typer.Option(help="Dimensions of the joint space.  [default: 256]")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs a step.  [default: 512]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: 0.001]")] = None,
    captions: Annotated[
        Literal["sample", "all", "mean"] | None,
        typer.Option(help="Rows of a group: one drawn each epoch, all, or their mean.  [default: sample]"),
    ] = None,
    select: Annotated[
        Literal["retrieval", "alignment"] | None,
        typer.Option(help="The epoch kept is the best by.  [default: retrieval]"),
    ] = None,
    shuffle_pairs: Annotated[
        bool | None, typer.Option("--shuffle-pairs", help="Control: train on wrong pairs.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Neighbours of mutual k-NN.  [default: 10]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and draws.  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device.  [default: cpu]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/DATASET/X+Y--REFERENCE/ADAPTER-sSEED.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in that folder.")] = False,
    cache: CacheOption = None,
) -> None:
    """Train adapters on cached features and measure them.

    Two adapters map both sides into one joint space; the joint space, its parts and untrained adapters are measured
    against the reference on the test split.
    """
    from featcache.cache import open_cache
    from report.training import show_run, train_and_watch
    from trainer.config import make_config
    from trainer.defaults import choose_triple, run_folder

    config = make_config(
        adapter=adapter, epochs=epochs, width=width, batch=batch, lr=lr, captions=captions, select=select,
        shuffle_pairs=shuffle_pairs, k=k, seed=seed, device=device,
    )  # fmt: skip
    store = open_cache(cache)
    triple = choose_triple(store, dataset, x, y, reference)
    folder = out or Path(run_folder(triple, config.adapter, config.seed))
    show_run(train_and_watch(store, triple, config, folder, overwrite=overwrite))


@app.command()
def embed(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Default: the one it was trained on.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Cache what a run's adapters make of cached features."""
    from featcache.cache import open_cache
    from trainer.embed import embed as apply
    from trainer.run import load_run

    for features in apply(open_cache(cache), load_run(run), dataset=dataset):
        typer.echo(f"{features.dataset}/{features.view}/{features.name}: {len(features)} rows of {features.width}")


@app.command()
def align(
    dataset: DatasetArgument,
    x: Annotated[str, typer.Argument(metavar="ENCODER", help="[view/]encoder[/layer.pooling][@digest].")],
    y: Annotated[str, typer.Argument(metavar="ENCODER", help="The other one.")],
    k: Annotated[int, typer.Option(help="Neighbours of mutual k-NN.", min=1)] = 10,
    split: Annotated[str | None, typer.Option(help="Only this split. Default: every group.")] = None,
    permutations: Annotated[int, typer.Option(help="Permutations behind each null range.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the permutations.", min=0)] = 0,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Measure the alignment of two cached encoders."""
    from featcache.cache import open_cache
    from report.training import show_alignment
    from trainer.align import align as measure

    store = open_cache(cache)
    a, b = store.load(dataset, x), store.load(dataset, y)
    show_alignment(a, b, measure(a, b, k=k, split=split, permutations=permutations, seed=seed), as_json=json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Folder of the page and its figures.")] = Path("report-out"),
) -> None:
    """Draw the figures and the page of one or several runs."""
    from report.page import write_report

    typer.echo(f"Page: {write_report(runs, out)}\nFigures: {out / 'figures'}")


@app.command()
def demo(
    cache: CacheOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the page.")] = Path("runs/demo"),
) -> None:
    """Run the main job on the embedded data set.

    Extract three encoders, train three kinds of adapters, measure them, and draw the page.
    """
    from report.demo import run_demo

    run_demo(cache, out)


def main() -> None:
    """Runs a command; an error of ours is one message on stderr and exit code 1."""
    import os
    import sys

    # waiting threads sleep instead of spinning, which on a busy machine costs many times the work itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from data.errors import DataError
    from featcache.errors import FeatcacheError
    from metrics.errors import MetricError

    try:
        app()
    except (DataError, FeatcacheError, MetricError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"{type(error).__name__}: cannot read or write {what}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted. What was committed stays: run the same command again to go on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
