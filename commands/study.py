"""Commands of a study: sweeps over experiments, and the ledger of claims."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from featcache.commands.options import CacheOption

OutOption = Annotated[Path, typer.Option(help="Folder of the study: run folders, and the tables of every experiment.")]
ProfileOption = Annotated[
    Literal["quick", "full"], typer.Option(help="Which of the experiment's profiles, the small or the whole one.")
]


def sweep(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Experiments: experiments/adapters.toml")],
    profile: ProfileOption = "quick",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Fix a setting, or with a list vary it, as in epochs=5 or seed=[0,1]; several times.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=0, help="Trainings at a time; 0: in this process. Default: one a core.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each training.")] = 1,
    out: OutOption = Path("study"),
    skip_uncached: Annotated[
        bool,
        typer.Option("--skip-uncached", help="Leave out what has no cached features, and say what makes them."),
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Draw its plots as PNG and SVG, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained.")] = False,
    cache: CacheOption = None,
) -> None:
    """Run experiments: every combination of their grids, over processes, into tidy tables.

    A run that is there is not computed again, so that the same command goes on where it was interrupted. Trainings that
    fail are listed at the end, with exit code 1; the others go on.
    """
    from featcache.report.figures.study_figures import write_sweep_figures
    from featcache.report.terminal.sweeps import show_figures, show_plan, show_skipped, show_sweep, sweep_progress
    from featcache.studies.experiments.processes import Resources, default_processes
    from featcache.studies.experiments.spec import load_experiment
    from featcache.studies.experiments.sweep import experiment_names, extractions, planned, run_sweeps

    sources = [load_experiment(file, profile, change or ()) for file in files]
    resources = Resources(cache, out, default_processes() if processes is None else processes, threads)
    plans = [planned(source, resources, skip_uncached=skip_uncached) for source in sources]
    for plan in plans:
        if skip_uncached and (commands := extractions(plan.source, resources)):
            show_skipped(plan.source, commands, some=bool(plan.trainings))
        if dry_run:
            show_plan(plan)
    if dry_run or not any(plan.trainings for plan in plans):
        return
    with sweep_progress(resources.processes, experiment_names(plans)) as on_done:
        results = run_sweeps(plans, resources, on_done)
    for result in results:
        show_sweep(result)
        if figures:
            show_figures(result.folder, write_sweep_figures(result))
    if any(result.failures for result in results):
        raise typer.Exit(1)


def ledger(
    claims: Annotated[
        Path, typer.Argument(metavar="FILE", help="File of claims, as experiments/claims.toml is one.")
    ] = Path("experiments/claims.toml"),
    profile: ProfileOption = "quick",
    out: OutOption = Path("study"),
    figures: Annotated[bool, typer.Option("--figures", help="Draw the claims as forest plots, too.")] = False,
) -> None:
    """Judge claims by the tables of a study.

    Effect, interval and verdict (held, failed, cannot tell here) of each claim go to ledger.parquet and ledger.md in
    the study's ledger/PROFILE; of another file than claims.toml in a folder of its name below.
    """
    from featcache.report.figures.claims import write_ledger_figures
    from featcache.report.terminal.sweeps import show_figures, show_ledger
    from featcache.studies.ledger.claims import load_claims
    from featcache.studies.ledger.ledger import judge, write_ledger

    entries = judge(load_claims(claims), out, profile)
    folder = out / "ledger" / profile / ("" if claims.stem == "claims" else claims.stem)
    show_ledger(entries, write_ledger(entries, folder))
    if figures:
        show_figures(folder, write_ledger_figures(entries, folder))
