"""The demo: the main job on the embedded data set, from extraction to the page, of two modalities or of three."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from featcache.commands.exhibits import headline_exhibits
from featcache.commands.extraction import run_jobs
from featcache.report.terminal.console import console

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.extraction.job import Job
    from featcache.studies.adapters.train import Workbench
    from featcache.trainer.defaults import Selection
    from featcache.trainer.run import Run

KINDS = ("linear", "mlp", "bottleneck")
KIND = "linear"  # of all sides and of each pair of them


def run_demo(cache_root: str | None, out: Path, modalities: int = 2, *, verbose: bool = False) -> Path:
    """Extracts the demo's encoders, trains adapters, and draws the page of all runs.

    Of two modalities every kind of adapter is trained. Of three one kind is, of all sides and of each pair of them, in
    spaces of one width and on the same rows.

    Args:
        cache_root: Cache folder, or None for the default.
        out: Folder of the runs and the page.
        modalities: 2 for images and captions, 3 for speech too.
        verbose: Print every table and finding.

    Returns:
        The page.

    Raises:
        UsageError, DataMissing, WeightsMissing: If a package is not installed; before anything is computed.
    """
    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.extraction.executors import Execution
    from featcache.report.figures.figure import require_renderer
    from featcache.report.page.write import check_page_place, write_report
    from featcache.report.runs import load_runs
    from featcache.report.terminal.fitted import print_parts
    from featcache.report.terminal.training import show_runs
    from featcache.trainer.defaults import DEMOS

    require_renderer()  # before the minutes that come first
    check_page_place(out)
    demo, started, cache = DEMOS[modalities], perf_counter(), Cache(cache_root)
    names = [_encoder(selector) for selector in demo.selectors]
    print_parts([f"1. Extract {demo.dataset} with {', '.join(names)}", f"into {cache.folder}"])
    source = DatasetSource(demo.dataset)
    run_jobs(cache, _jobs(cache, demo, source), Execution(), source)
    runs = _train_kinds(cache, demo, out) if modalities == 2 else _train_subsets(cache, demo, out)
    console().print("3. The result")
    loaded = load_runs([run.path for run in runs])
    show_runs([run.path for run in runs], verbose=verbose)
    page = write_report(loaded, out, exhibits=headline_exhibits(loaded, cache=cache_root))
    console().print(f"\nThe page with every figure: {page.resolve()}  ({perf_counter() - started:.0f} s in all)")
    return page


def _jobs(cache: "Cache", demo: "Selection", source: "DatasetSource") -> "list[Job]":
    from featcache.data.speech import is_spoken, require_speech
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extraction.job import plan_job
    from featcache.selectors import parse_selector

    dataset = source.open()
    named = [parse_selector(selector) for selector in demo.selectors]
    jobs = [plan_job(cache, dataset, encoder_spec(one.encoder), EncodeOptions(), view=one.view) for one in named]
    if any(is_spoken(job.view) and not job.done for job in jobs):
        require_speech()
    return jobs


def _train_kinds(cache: "Cache", demo: "Selection", out: Path) -> "list[Run]":
    """Every kind of adapter on the same sides."""
    from featcache.report.terminal.fitted import print_parts
    from featcache.report.terminal.leaks import show_leaks
    from featcache.studies.adapters.train import Workbench
    from featcache.trainer.config import make_config

    joined = f"that join {' and '.join(demo.encoders)};"
    print_parts([f"2. Train {', '.join(KINDS)} adapters", joined, f"measure against {demo.reference}"])
    features = Workbench.load(cache, demo)
    show_leaks(features.leaks(make_config()))
    return [_train(features, demo, kind, out / kind) for kind in KINDS]


def _train_subsets(cache: "Cache", demo: "Selection", out: Path) -> "list[Run]":
    """One kind of adapter on all sides and on each pair of them."""
    from featcache.report.terminal.fitted import print_parts
    from featcache.report.terminal.leaks import show_leaks
    from featcache.studies.adapters.train import Workbench
    from featcache.trainer.config import make_config

    names = [_encoder(typed) for typed in demo.encoders]
    joined = f"that join {', '.join(names[:-1])} and {names[-1]}, and each pair of them;"
    print_parts([f"2. Train {KIND} adapters", joined, f"measure against {demo.reference}"])
    sides = list(zip(demo.encoders, demo.views, strict=False))
    runs: list[Run] = []
    for chosen in [sides, *combinations(sides, 2)]:
        encoders, views = zip(*chosen, strict=True)
        part = replace(demo, encoders=encoders, views=(*views, demo.views[-1]))
        features = Workbench.load(cache, part)
        if not runs:
            show_leaks(features.leaks(make_config()))
        runs.append(_train(features, part, KIND, out / "+".join(features.sides)))
    return runs


def _train(features: "Workbench", selection: "Selection", kind: str, folder: Path) -> "Run":
    from featcache.report.terminal.progress import epoch_progress
    from featcache.report.terminal.training import show_training
    from featcache.studies.adapters.train import train
    from featcache.trainer.config import make_config

    with epoch_progress() as on_epoch:
        overwrite = _is_demo_run(folder, selection)
        run = train(features, make_config(adapter=kind), folder, overwrite=overwrite, on_epoch=on_epoch)
    show_training(run)
    return run


def _encoder(selector: str) -> str:
    from featcache.selectors import parse_selector

    return parse_selector(selector).encoder


def _is_demo_run(folder: Path, selection: "Selection") -> bool:
    """Whether a run of these encoders stands there, perhaps an older version's: that one may be replaced."""
    from featcache.trainer.errors import RunDamaged, RunMissing
    from featcache.trainer.run import load_run

    try:
        config = load_run(folder).config
    except (RunMissing, RunDamaged):
        return False
    trained = (config["dataset"], tuple(side["encoder"] for side in config["sides"].values()))
    return trained == (selection.dataset, tuple(_encoder(typed) for typed in selection.encoders))
