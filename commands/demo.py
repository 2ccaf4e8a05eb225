"""The demo: the main job on the embedded data set, from extraction to the page."""

from pathlib import Path
from time import perf_counter

from featcache.commands.exhibits import headline_exhibits
from featcache.commands.extraction import run_jobs
from featcache.report.terminal.console import console

KINDS = ("linear", "mlp", "bottleneck")


def run_demo(cache_root: str | None, out: Path, *, verbose: bool = False) -> Path:
    """Extracts the demo's three encoders, trains every kind of adapter, and draws the page of all runs.

    Args:
        cache_root: Cache folder, or None for the default.
        out: Folder of the runs and the page.
        verbose: Print every table and finding.

    Returns:
        The page.
    """
    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extraction.executors import Execution
    from featcache.extraction.job import plan_job
    from featcache.report.figures.figure import require_renderer
    from featcache.report.page.write import check_page_place, write_report
    from featcache.report.runs import load_runs
    from featcache.report.terminal.fitted import print_parts
    from featcache.report.terminal.leaks import show_leaks
    from featcache.report.terminal.progress import epoch_progress
    from featcache.report.terminal.training import show_runs, show_training
    from featcache.studies.adapters.train import Workbench, train
    from featcache.trainer.config import make_config
    from featcache.trainer.defaults import DEMO

    require_renderer()  # before the minutes that come first
    check_page_place(out)
    started, cache, encoders = perf_counter(), Cache(cache_root), (*DEMO.encoders, str(DEMO.reference))
    say = console().print
    print_parts([f"1. Extract {DEMO.dataset} with {', '.join(encoders)}", f"into {cache.folder}"])
    source = DatasetSource(DEMO.dataset)
    dataset = source.open()
    jobs = [plan_job(cache, dataset, encoder_spec(name), EncodeOptions()) for name in encoders]
    run_jobs(cache, jobs, Execution(), source)
    kinds = ", ".join(KINDS)
    joined = f"that join {' and '.join(DEMO.encoders)};"
    print_parts([f"2. Train {kinds} adapters", joined, f"measure against {DEMO.reference}"])
    features, runs = Workbench.load(cache, DEMO), []
    show_leaks(features.leaks(make_config()))
    for config in (make_config(adapter=adapter) for adapter in KINDS):
        folder = out / str(config.adapter)
        with epoch_progress() as on_epoch:
            runs.append(train(features, config, folder, overwrite=_is_demo_run(folder), on_epoch=on_epoch))
        show_training(runs[-1])
    say("3. The result")
    loaded = load_runs([run.path for run in runs])
    show_runs([run.path for run in runs], verbose=verbose)
    page = write_report(loaded, out, exhibits=headline_exhibits(loaded, cache=cache_root))
    say(f"\nThe page with every figure: {page.resolve()}  ({perf_counter() - started:.0f} s in all)")
    return page


def _is_demo_run(folder: Path) -> bool:
    """Whether a run of the demo's three encoders stands there, perhaps an older version's: that one may be replaced."""
    from featcache.trainer.defaults import DEMO
    from featcache.trainer.errors import RunDamaged, RunMissing
    from featcache.trainer.run import load_run

    try:
        config = load_run(folder).config
    except (RunMissing, RunDamaged):
        return False
    trained = (config["dataset"], tuple(side["encoder"] for side in config["sides"].values()))
    return trained == (DEMO.dataset, DEMO.encoders)
