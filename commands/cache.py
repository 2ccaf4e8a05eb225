"""Commands that list, verify, repair and clean the cache."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.completion import complete_array
from featcache.commands.options import (
    AllowMissingOption,
    CacheOption,
    ColumnOption,
    DatasetArgument,
    DryRunOption,
    FloatRangeOption,
    FramesOption,
    JsonOption,
    LayoutOption,
    PatternArgument,
    RootOption,
    SecondsOption,
    YesOption,
    confirm,
    declared_options,
    echo,
)


def list_arrays(
    arrays: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REMOTE] [ARRAYS]",
            help="A folder (with a slash) or an address, to list instead of the cache; what of it, as in data/*/gpt2.",
        ),
    ] = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """List what is cached, or what colleagues have."""
    from featcache.cache import open_cache
    from featcache.report.terminal.console import show_entries

    place, pattern = _place_and_pattern(list(arrays or ()), cache)
    store = open_cache(place)
    show_entries(store.entries(pattern), store, as_json=json)


def _place_and_pattern(given: list[str], cache: str | None) -> tuple[str | None, str]:
    """Which cache to list, and what of it; a folder named without a slash is pointed out, not guessed."""
    from featcache.cache import Cache
    from featcache.selectors import is_place

    if given and is_place(given[0]) and not _is_own_data(given[0], cache):
        place = given.pop(0)
    else:
        place = cache
    is_folder = bool(given) and Path(given[0]).is_dir() and not any(Cache(place).arrays(given[0].partition("/")[0]))
    if is_folder and not is_place(given[0]):
        raise typer.BadParameter(f"{given[0]} is a folder here; to list what is in it, write ./{given[0]}")
    if len(given) > 1:
        raise typer.BadParameter("name one pattern, such as flickr30k/*/gpt2")
    return place, given[0] if given else "*"


def _is_own_data(text: str, cache: str | None) -> bool:
    """Whether a path is a folder of images that is cached, and no cache itself."""
    from featcache.cache import Cache
    from featcache.data.errors import DataInvalid
    from featcache.data.open import dataset_name

    if "://" in text or (Path(text).expanduser().is_dir() and any(Cache(text).arrays())):
        return False
    try:
        return any(Cache(cache).arrays(dataset_name(text)))
    except DataInvalid:
        return False


def show(
    dataset: DatasetArgument,
    selectors: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_array,
            help="[view/]encoder[/layer.pooling][@digest]; two to compare.",
        ),
    ],
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show an array's key and which of its rows deserve a look, or how two arrays differ.

    Rows of unequal content with equal features, rows of one number, images of almost one colour and texts cut at the
    token limit are counted and named.
    """
    from featcache.cache import open_cache
    from featcache.entries import describe_key
    from featcache.maintenance.health import array_health
    from featcache.report.terminal.console import show_keys, show_other_names
    from featcache.report.terminal.health import show_health
    from featcache.report.terminal.progress import step_progress
    from featcache.store.digest import differences

    store = open_cache(cache)
    if len(selectors) > 2:
        raise typer.BadParameter("name one array to show, or two to compare")
    matches = [store.find(dataset, selector) for selector in selectors]
    show_other_names(store.entries_of(matches))
    keys = [describe_key(store.folder, array) for array in matches]
    if not json or len(keys) > 1:
        show_keys(keys, differences(keys[0], keys[-1]), as_json=json)
    if len(keys) > 1:
        return
    with step_progress(f"comparing the rows of {matches[0].folder}"):
        health = array_health(store, matches[0])
    if json:
        show_keys([{**keys[0], "health": asdict(health) if health else None}], {}, as_json=True)
    else:
        show_health(health, clean="No two rows are alike, and none is constant, near-constant or cut.")


def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARRAYS] [RUN]",
            help="dataset[/view[/encoder[/layer]]][@digest]; parts may hold globs; or run folders. Default: all.",
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compute blake3 of every chunk, too.")] = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check every byte of the cache, or of run folders.

    Exit code 1 on damage, which is named by array and chunk, or by run and file.
    """
    from featcache.trainer.run_search import is_run

    runs = [Path(name) for name in what or () if is_run(Path(name))]
    patterns = [name for name in what or () if Path(name) not in runs]
    if runs and patterns or len(patterns) > 1:
        raise typer.BadParameter(f"{patterns[0]} is no run folder; name run folders, or one pattern of arrays")
    code = _verify_runs(runs, as_json=json) if runs else _verify_arrays([*patterns, "*"][0], cache, deep, as_json=json)
    raise typer.Exit(code)


def _verify_runs(runs: list[Path], *, as_json: bool) -> int:
    from featcache.report.terminal.maintenance import show_run_files
    from featcache.trainer.run_files import changed_files
    from featcache.trainer.unfinished import unfinished

    changed = {run: changed_files(run) for run in runs}
    return show_run_files(changed, {run: unfinished(run) for run in runs}, as_json=as_json)


def _verify_arrays(pattern: str, cache: str | None, deep: bool, *, as_json: bool) -> int:
    from featcache.cache import open_cache
    from featcache.maintenance.verify import verify as check
    from featcache.report.terminal.console import count, show_problems
    from featcache.report.terminal.progress import step_progress

    store = open_cache(cache)
    entries = store.entries(pattern)
    with step_progress(f"checking {count(entries, 'array')} in {store.folder}"):
        problems = list(check(store, pattern, deep=deep))
    return show_problems(problems, entries, store, as_json=as_json)


def repair(
    arrays: PatternArgument = "*",
    source: Annotated[
        str | None, typer.Option("--from", metavar="REMOTE", help="Cache that may have what is damaged here.")
    ] = None,
    root: RootOption = None,
    layout: LayoutOption = None,
    column: ColumnOption = None,
    allow_missing: AllowMissingOption = False,
    float_range: FloatRangeOption = None,
    seconds: SecondsOption = None,
    frames: FramesOption = 1,
    weights: Annotated[Path | None, typer.Option(help="Local copy of the encoder's repository.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    new_root: Annotated[
        bool,
        typer.Option("--new-root", help="Accept other bytes than recorded; drops what was derived from the old ones."),
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Mend what verify finds.

    Records are rewritten from one another; only damaged chunks are pulled or computed again, and must have the bytes
    that were recorded.
    """
    from featcache.cache import open_cache
    from featcache.maintenance.repair import Sources
    from featcache.maintenance.repair import repair as mend
    from featcache.report.terminal.maintenance import show_repair, show_step
    from featcache.report.terminal.progress import step_progress

    remote = open_cache(source) if source else None
    options = declared_options(
        float_range=float_range, layout=layout, column=column, allow_missing=allow_missing, seconds=seconds,
        frames=frames,
    )  # fmt: skip
    sources = Sources(remote=remote, root=root, options=options, weights=weights, device=device, new_root=new_root)
    store = open_cache(cache)
    steps: list[str] = []
    with step_progress(f"looking for damage in {store.folder}"):
        problems = mend(store, arrays, sources, on_step=lambda *step: steps.append(show_step(*step)))
    raise typer.Exit(show_repair(problems, store, mended=bool(steps)))


def remove(
    dataset: DatasetArgument,
    selectors: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_array,
            help="[view/]encoder[/layer.pooling][@digest]; parts may hold globs.",
        ),
    ],
    yes: YesOption = False,
    cache: CacheOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Delete arrays from the cache; asks first."""
    from featcache.cache import open_cache
    from featcache.report.terminal.console import count, show_entries

    store = open_cache(cache)
    matches = [array for selector in selectors for array in store.select(dataset, selector)]
    arrays = list({str(array.folder): array for array in matches}.values())
    show_entries(store.entries_of(arrays), store, as_json=False)
    if dry_run:
        echo("Nothing was deleted (--dry-run).")
        return
    if not yes:
        confirm(f"Delete {count(arrays, 'array')} from {store.folder}?")
    for array in arrays:
        store.remove(array)
    echo("Deleted.")


def move(
    old: Annotated[str, typer.Argument(metavar="OLD", help="dataset, dataset/view or dataset/view/encoder.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="As many parts.")],
    cache: CacheOption = None,
) -> None:
    """Rename a data set, a view or an encoder."""
    from featcache.cache import open_cache
    from featcache.maintenance.gc import rename
    from featcache.report.terminal.console import show_entries

    store = open_cache(cache)
    show_entries(store.entries_of(rename(store, old, new)), store, as_json=False)


def usage(arrays: PatternArgument = "*", cache: CacheOption = None, json: JsonOption = False) -> None:
    """Show what takes how much room."""
    from featcache.cache import open_cache
    from featcache.maintenance.gc import usage as measure
    from featcache.report.terminal.maintenance import show_usage

    store = open_cache(cache)
    show_usage(measure(store, arrays), store, as_json=json)


def collect(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it. Default: only list it.")] = False,
    superseded: Annotated[
        bool,
        typer.Option(
            "--superseded",
            help="Instead: arrays of older rows of which complete ones of the current rows are there, and what was "
            "computed from them. Runs that were trained on them can then no longer be embedded.",
        ),
    ] = False,
    break_lease: Annotated[
        bool, typer.Option("--break-lease", help="Count writers of other hosts that give no sign of life as ended.")
    ] = False,
    cache: CacheOption = None,
) -> None:
    """List or delete what killed processes left, or what newer rows superseded.

    Temporary files, damaged files set aside, tables that no array is bound to. What a live writer may hold is never
    touched, and of an encoder never its only array. Exit code 1 if something could not be deleted.
    """
    from featcache.cache import open_cache
    from featcache.maintenance.gc import clean, leftovers
    from featcache.maintenance.superseded import drop_superseded, superseded_arrays
    from featcache.report.terminal.maintenance import show_leftovers, show_superseded

    store = open_cache(cache)
    if superseded:
        old = (drop_superseded if delete else superseded_arrays)(store, break_leases=break_lease)
        raise typer.Exit(show_superseded(old, store, deleted=delete, broken=break_lease))
    left = (clean if delete else leftovers)(store, break_leases=break_lease)
    older = superseded_arrays(store).found
    raise typer.Exit(show_leftovers(left, store, superseded=older, deleted=delete, broken=break_lease))


def doctor(
    remote: Annotated[
        str | None, typer.Argument(metavar="REMOTE", help="Also probe this folder, bucket or Hub repository.")
    ] = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Probe this machine, the cache and a remote.

    Exit code 1 if something will fail.
    """
    from featcache.cache import Cache
    from featcache.maintenance.doctor import probe
    from featcache.report.terminal.maintenance import show_findings
    from featcache.storage.open import open_folder

    raise typer.Exit(show_findings(probe(Cache(cache), open_folder(remote) if remote else None), as_json=json))
