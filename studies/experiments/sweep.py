"""A sweep: an experiment's trainings, those that are not there yet, and then its tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.cache import open_cache
from featcache.data.datasets import extract_command
from featcache.selectors import parse_selector
from featcache.studies.experiments.plan import Outcome, Training, one_each, plan, run_path, selections
from featcache.studies.experiments.processes import OnDone, Resources, run_all
from featcache.studies.experiments.spec import Source
from featcache.studies.experiments.tables import Tables, folder_of, gather, write_tables
from featcache.trainer.run_search import is_run


@dataclass(frozen=True)
class Planned:
    """What a sweep would do.

    Args:
        source: The experiment.
        trainings: The plan.
        there: Run folder -> whether a run stands in it.
        skip_uncached: Whether what has no cached features was left out.
    """

    source: Source
    trainings: list[Training]
    there: Mapping[str, bool]
    skip_uncached: bool

    @property
    def skipped(self) -> bool:
        """Whether nothing is left of the experiment: it writes no tables."""
        return self.skip_uncached and not self.trainings


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


def planned(source: Source, resources: Resources, *, skip_uncached: bool = False) -> Planned:
    """What a sweep would do: its trainings, and in which of their folders a run stands.

    Args:
        source: The experiment.
        resources: Reads cache and folder.
        skip_uncached: Leave out what has no cached features.

    Raises:
        ExperimentInvalid: As `plan`.
    """
    trainings = plan(open_cache(resources.cache), source, skip_uncached=skip_uncached)
    there = {training.folder: is_run(run_path(resources.out, training)) for training in one_each(trainings)}
    return Planned(source, trainings, there, skip_uncached)


def experiment_names(plans: Sequence[Planned]) -> dict[str, str]:
    """Run folder -> the first experiment that has it, of several; of one experiment none, since all are its own."""
    if len(plans) < 2:
        return {}
    names: dict[str, str] = {}
    for one in plans:
        for training in one.trainings:
            names.setdefault(training.folder, one.source.name)
    return names


def extractions(source: Source, resources: Resources) -> list[str]:
    """The commands that make the features which an experiment lacks, of further references and transfers too.

    Raises:
        UsageError: If a data set, sides or reference are not of their form.
    """
    cache, experiment = open_cache(resources.cache), source.experiment
    further = [*experiment.panel, *(other for others in experiment.transfer.values() for other in others)]
    lacking: dict[tuple[str, str], dict[str, None]] = {}
    for selection in selections(source):
        for selector in (*selection.selectors, *further):
            if not cache.holds(selection.dataset, selector):
                name = parse_selector(selector)
                lacking.setdefault((selection.dataset, name.view or ""), {})[name.encoder] = None
    return [extract_command(dataset, " ".join(names), view=view) for (dataset, view), names in lacking.items()]


def run_sweep(
    source: Source, resources: Resources, on_done: OnDone | None = None, *, skip_uncached: bool = False
) -> Sweep:
    """One sweep; as `planned` and `run_sweeps`."""
    (sweep,) = run_sweeps([planned(source, resources, skip_uncached=skip_uncached)], resources, on_done)
    return sweep


def run_sweeps(plans: Iterable[Planned], resources: Resources, on_done: OnDone | None = None) -> list[Sweep]:
    """Trains and measures what is not there, and writes the tables of everything that is.

    The run folders are the state of a sweep: after any interruption the same call goes on with those that are missing,
    and writes the same tables. Several experiments share processes, and each run that two of them have.

    Args:
        plans: From `planned`; an experiment of which nothing is left writes no tables.
        resources: Cache, folder, processes and threads.
        on_done: Called with each training that has ended.
    """
    plans = [one for one in plans if not one.skipped]
    unique = one_each([training for one in plans for training in one.trainings])
    outcomes = {outcome.folder: outcome for outcome in run_all(unique, resources, on_done)}
    return [_gathered(one, outcomes, resources.out) for one in plans]


def _gathered(planned: Planned, outcomes: Mapping[str, Outcome], out: Path) -> Sweep:
    """The sweep of one experiment, its tables written; of a run that is shared it has only what it asked for."""
    source, trainings = planned.source, planned.trainings
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
