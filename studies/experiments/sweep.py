"""A sweep: an experiment's trainings, those that are not there yet, and then its tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.cache import open_cache
from featcache.data.datasets import extract_command
from featcache.selectors import parse_selector
from featcache.studies.experiments.plan import Outcome, Training, is_cached, one_each, plan, run_path, selections
from featcache.studies.experiments.processes import OnDone, Resources, run_all
from featcache.studies.experiments.spec import Source
from featcache.studies.experiments.tables import Tables, folder_of, gather, write_tables
from featcache.trainer.run_search import is_run


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Args:
        source: The experiment.
        folder: Where its tables are.
        trainings: The plan.
        outcomes: Run folder -> what came of it.
        tables: As written.
    """

    source: Source
    folder: Path
    trainings: list[Training]
    outcomes: Mapping[str, Outcome]
    tables: Tables

    @property
    def failures(self) -> dict[str, str]:
        """Title of each training that failed -> its error."""
        return {t.title: self.outcomes[t.folder].error for t in self.trainings if self.outcomes[t.folder].error}


def planned(source: Source, resources: Resources, *, skip_uncached: bool = False) -> dict[str, Any]:
    """What a sweep would do: its trainings, and in which of their folders a run stands.

    Raises:
        ExperimentInvalid: As `plan`.
    """
    trainings = plan(open_cache(resources.cache), source, skip_uncached=skip_uncached)
    there = {training.folder: is_run(run_path(resources.out, training)) for training in one_each(trainings)}
    return {"trainings": trainings, "there": there}


def experiment_names(sources: Sequence[Source], plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Run folder -> the first experiment that has it, of several; of one experiment none, since all are its own."""
    if len(sources) < 2:
        return {}
    names: dict[str, str] = {}
    for source, one in zip(sources, plans, strict=True):
        for training in one["trainings"]:
            names.setdefault(training.folder, source.name)
    return names


def extractions(source: Source, resources: Resources) -> list[str]:
    """The commands that make the features which an experiment lacks, of further references and transfers too.

    Raises:
        UsageError: If a data set, sides or reference are not of their form.
    """
    cache, experiment = open_cache(resources.cache), source.experiment
    lacking: dict[tuple[str, str], dict[str, None]] = {}
    for selection in selections(source):
        needed = [*selection.sides.values(), *([selection.target] if selection.target else [])]
        needed += [*experiment.panel, *(other for others in experiment.transfer.values() for other in others)]
        for selector in needed:
            if not is_cached(cache, selection.dataset, selector):
                name = parse_selector(selector)
                lacking.setdefault((selection.dataset, name.view or ""), {})[name.encoder] = None
    return [extract_command(dataset, " ".join(names), view=view) for (dataset, view), names in lacking.items()]


def run_sweep(
    source: Source, resources: Resources, on_done: OnDone | None = None, *, skip_uncached: bool = False
) -> Sweep:
    """One sweep; as `run_sweeps`."""
    (sweep,) = run_sweeps([source], resources, on_done, skip_uncached=skip_uncached)
    return sweep


def run_sweeps(
    sources: Sequence[Source], resources: Resources, on_done: OnDone | None = None, *, skip_uncached: bool = False
) -> list[Sweep]:
    """Trains and measures what is not there, and writes the tables of everything that is.

    The run folders are the state of a sweep: after any interruption the same call goes on with those that are missing,
    and writes the same tables. Several experiments share processes, and each run that two of them have.

    Args:
        sources: The experiments.
        resources: Cache, folder, processes and threads.
        on_done: Called with each training that has ended.
        skip_uncached: Leave out what has no cached features; an experiment of which nothing is left writes no tables.

    Raises:
        ExperimentInvalid: As `plan`.
    """
    cache = open_cache(resources.cache)
    plans = [(source, plan(cache, source, skip_uncached=skip_uncached)) for source in sources]
    plans = [(source, trainings) for source, trainings in plans if trainings or not skip_uncached]
    unique = one_each([training for _, trainings in plans for training in trainings])
    outcomes = {outcome.folder: outcome for outcome in run_all(unique, resources, on_done)}
    return [_gathered(source, trainings, outcomes, resources.out) for source, trainings in plans]


def _gathered(source: Source, trainings: list[Training], outcomes: Mapping[str, Outcome], out: Path) -> Sweep:
    """The sweep of one experiment, its tables written; of a run that is shared it has only what it asked for."""
    own = {training.folder: outcomes[training.folder].asked_for(training) for training in one_each(trainings)}
    sweep = Sweep(source, folder_of(out, source), trainings, own, gather(source, trainings, own, out))
    write_tables(sweep.folder, sweep.tables, _summary(sweep))
    return sweep


def _summary(sweep: Sweep) -> dict[str, Any]:
    """What the tables are of; nothing that differs between equal sweeps."""
    experiment = sweep.source.experiment
    counts = Counter("failed" if outcome.error else "there" for outcome in sweep.outcomes.values())
    return {
        "experiment": sweep.source.name,
        "question": experiment.question,
        "profile": sweep.source.profile,
        "settings": experiment.model_dump(mode="json", exclude={"profiles", "question"}),
        "trainings": {"there": counts["there"], "failed": counts["failed"]},
        "failures": sweep.failures,
    }
