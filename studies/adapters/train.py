"""Training runs: trains adapters, measures them, and writes the run folder."""

from pathlib import Path

from featcache.cache import Cache
from featcache.features import Features
from featcache.studies.adapters.pictures import kernel_table, map_table
from featcache.studies.adapters.results import final_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Triple
from featcache.trainer.fit import OnEpoch, fit_pairs
from featcache.trainer.pairs import pair
from featcache.trainer.run import (
    Run,
    existing_run,
    load_run,
    run_identity,
    run_provenance,
    unfinished_folder,
    write_json,
    write_results,
)
from featcache.trainer.table import frame


def train(
    x: Features,
    y: Features,
    reference: Features,
    config: FitConfig,
    out: Path,
    *,
    overwrite: bool = False,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Trains, measures and writes one run folder.

    Everything is written to a hidden folder beside `out`, which takes its name at the very end; config.json, with the
    hashes of the validation and test groups, is written there before the first step.

    Args:
        x: Features of one side.
        y: Features of the other side.
        reference: Features that alignment is measured against.
        config: Settings.
        out: The run folder.
        overwrite: Replace another or damaged run (and only a run) that stands there.
        on_epoch: Called after every epoch.

    Returns:
        The run; if the same one (settings, digests, roots, overlay) stood there already, that one, `already_there`.

    Raises:
        RunExists: If `out` holds something else.
        NotPaired: If the three arrays do not share groups, splits and overlay.
        UsageError: If the device is not there.
        TrainingDiverged: If the loss is not finite.
    """
    out = Path(out)
    identity = run_identity(x, y, reference, config)
    existing = existing_run(out, identity, overwrite=overwrite)
    if existing is not None:
        return existing
    pairs = pair(x, y, reference, config)
    with unfinished_folder(out, overwrite=overwrite) as folder:
        declared = {**identity, "split": pairs.split, **run_provenance(config)}
        write_json(folder / "config.json", declared)
        fitted = fit_pairs(pairs, config, on_epoch=on_epoch)
        outcome = {"selected_epoch": fitted.selected_epoch, "seconds": round(fitted.seconds, 3)}
        rows = fitted.rows + final_rows(fitted)
        tables = {"metrics": frame(rows), "map": map_table(fitted), "kernels": kernel_table(fitted)}
        write_results(folder, fitted.adapters, identity, tables)
        write_json(folder / "config.json", {**declared, **outcome})
    return load_run(out)


def train_cached(
    cache: Cache,
    triple: Triple,
    config: FitConfig,
    out: Path,
    *,
    overwrite: bool = False,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """`train` of three arrays of the cache, by name."""
    x, y, reference = (cache.load(triple.dataset, selector) for selector in triple[1:])
    return train(x, y, reference, config, out, overwrite=overwrite, on_epoch=on_epoch)
