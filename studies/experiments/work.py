"""The work of one process of a sweep: trainings and panels into the folder of a study, features paired once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.metrics.errors import MetricError
from featcache.metrics.measure.row import ContrastRow, Row, frame
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.adapters.results import final_results
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.downstream.probe import ProbeSettings, probe
from featcache.studies.experiments.plan import Outcome, Training, run_path, transfer_label
from featcache.studies.experiments.transfer import stitched_rows
from featcache.trainer.defaults import Selection
from featcache.trainer.errors import NotPaired
from featcache.trainer.fit import Fitted
from featcache.trainer.run import Run, run_identity
from featcache.trainer.splits import same_splits

BENCHES = 4  # selections whose features and raw scores a process keeps
PANEL_TABLES = {"metrics": Row, "contrasts": ContrastRow}


class Worker:
    """Runs trainings one after the other; those of the same features share a workbench.

    Args:
        cache: Where features are.
        out: The folder of the study.
    """

    def __init__(self, cache: Cache, out: Path) -> None:
        self.cache, self.out = cache, out
        self._benches: dict[Selection, Workbench] = {}

    def run(self, training: Training) -> Outcome:
        """Trains and measures whatever of a training is not there; an error becomes part of the outcome."""
        try:
            return self._run(training)
        except Exception as error:  # whatever it was, the other trainings go on
            return Outcome(training.folder, True, error=f"{type(error).__name__}: {error}")

    def _run(self, training: Training) -> Outcome:
        bench = self._bench(training.selection)
        # a run of other features in that folder is of an older state of the cache: the folder is the sweep's own
        run = train(bench, training.config, run_path(self.out, training), overwrite=True)
        computed, lacking = not run.already_there, dict[str, str]()
        panel, transfers, probes = dict[str, tuple[str, str]](), dict[str, str](), dict[str, str]()
        for reference in training.panel:
            with _noted(lacking, reference, "reference"):
                other = self._bench(replace(training.selection, reference=reference))
                path = panel_path(bench, other, training)
                computed |= self._measure_panel(run, other, training, path)
                panel[reference] = reference_name(other), path
        for side, encoder in training.transfer:
            label = transfer_label(side, encoder)
            with _noted(lacking, label, "transfer"):
                other = self._bench(transferred(training.selection, side, encoder))
                path = transfer_path(bench, other, training)
                computed |= self._write_once(path, partial(self._stitched, run, bench, other, training))
                transfers[label] = path
        if training.probe:
            with _noted(lacking, training.probe, "probe of"):
                path = probe_path(bench, training)
                computed |= self._write_once(path, partial(self._probed, training))
                probes[training.probe] = path
        return Outcome(training.folder, computed, panel, "", transfers, probes, lacking)

    def _bench(self, selection: Selection) -> Workbench:
        if selection not in self._benches:
            bench = Workbench.load(self.cache, selection)
            while len(self._benches) >= BENCHES:
                del self._benches[next(iter(self._benches))]
            self._benches[selection] = bench
        self._benches[selection] = self._benches.pop(selection)  # the last one used stands last
        return self._benches[selection]

    def _measure_panel(self, run: Run, bench: Workbench, training: Training, path: str) -> bool:
        files = {name: self.out / f"{path}.{name}.parquet" for name in PANEL_TABLES}
        if all(file.is_file() for file in files.values()):
            return False
        rows, contrasts = panel_rows(run, bench, training)
        for name, table in {"metrics": frame(rows, Row), "contrasts": frame(contrasts, ContrastRow)}.items():
            write_output(files[name], parquet_bytes(table))
        return True

    def _write_once(self, path: str, measure: Callable[[], list[Row]]) -> bool:
        """Measures and writes rows that are not there; whether it did."""
        file = self.out / f"{path}.metrics.parquet"
        if file.is_file():
            return False
        write_output(file, parquet_bytes(frame(measure(), Row)))
        return True

    def _stitched(self, run: Run, bench: Workbench, other: Workbench, training: Training) -> list[Row]:
        return stitched_rows(run.adapters(), training.config, bench, other, epoch=run.config["selected_epoch"])

    def _probed(self, training: Training) -> list[Row]:
        settings = ProbeSettings(training.probe, halves=training.config.halves)
        result = probe(self.cache, training.selection.dataset, (), [run_path(self.out, training)], settings)
        return [replace(row, seconds=0.0) for row in result.rows]


def reference_name(bench: Workbench) -> str:
    """View, encoder and layer of a workbench's reference, as tables call it; "" where it has none."""
    reference = bench.reference
    return "" if reference is None else f"{reference.view}/{reference.name}"


def panel_path(bench: Workbench, other: Workbench, training: Training) -> str:
    """Where the tables of another reference lie: named by the run's identity and that reference's digest and root."""
    identities = [run_identity(each.sides, each.reference, training.config) for each in (bench, other)]
    identity = {"run": identities[0], "reference": identities[1]["reference"]}
    return _named("panel", identity)


def transferred(selection: Selection, side: str, encoder: str) -> Selection:
    """A selection with another encoder for a side, which keeps its name if it was given one."""
    name, equals, _ = side.rpartition("=")
    encoders = tuple(f"{name}{equals}{encoder}" if typed == side else typed for typed in selection.encoders)
    return replace(selection, encoders=encoders)


@contextmanager
def _noted(lacking: dict[str, str], name: str, what: str) -> Iterator[None]:
    """Keeps an error of ours as the reason why something is not there; the rest goes on."""
    try:
        yield
    except (FeatcacheError, MetricError) as error:
        lacking[name] = f"{what} {name}: {type(error).__name__}: {error}"


def transfer_path(bench: Workbench, other: Workbench, training: Training) -> str:
    """Where the table of a transfer lies: named by the run's identity and that of the other features."""
    identities = [run_identity(each.sides, each.reference, training.config) for each in (bench, other)]
    return _named("transfer", {"run": identities[0], "stitched": identities[1]})


def probe_path(bench: Workbench, training: Training) -> str:
    """Where the table of a probe lies: named by the run's identity and the label."""
    identity = {"run": run_identity(bench.sides, bench.reference, training.config), "probe": training.probe}
    return _named("probe", identity)


def _named(kind: str, identity: dict[str, Any]) -> str:
    """A path below the folder of the study, from everything that decides what stands there."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return f"{kind}/{blake3(canonical.encode()).hexdigest(length=16)}"


def panel_rows(run: Run, bench: Workbench, training: Training) -> tuple[list[Row], list[ContrastRow]]:
    """What a run trained with that reference would have of the test split: training never sees a reference.

    Args:
        run: The finished run.
        bench: The same sides with the other reference.
        training: Of the run.

    Raises:
        NotPaired: If the other reference has rows of other groups, so that the splits are not those of the run.
    """
    paired, evaluation = bench.paired(training.config), bench.evaluation(training.config)
    if not same_splits(paired.split, run.config["split"]):
        raise NotPaired(
            f"{training.selection.dataset}: the reference of the panel has rows of other groups than that of the run "
            f"{run.path}, so that splits differ\n  Extract both references for the same view"
        )
    fitted = Fitted(training.config, paired, run.adapters(), run.config["selected_epoch"], [], 0.0)
    results = final_results(fitted, evaluation)
    return [replace(row, seconds=0.0) for row in results.rows], results.contrasts


def context_of(run: Run) -> dict[str, Any]:
    """Columns of the tidy table that a run's own record gives."""
    sides = {name: f"{one['encoder']}/{one['layer']}" for name, one in run.config["sides"].items()}
    settings, train_groups = run.config["config"], run.config["split"]["n"]["train"]
    wanted = settings.get("train_groups", "all")
    adapter, reference = settings["adapter"], run.config["reference"]
    return {
        "dataset": run.config["dataset"],
        "sides": " + ".join(sides),
        "layers": json.dumps(sides, ensure_ascii=False),
        "reference": f"{reference['view']}/{reference['encoder']}/{reference['layer']}" if reference else "",
        "adapter": adapter if isinstance(adapter, str) else json.dumps(adapter, ensure_ascii=False),
        "seed": settings["seed"],
        "trained_on": train_groups if wanted == "all" else wanted,
        "selected_epoch": run.config["selected_epoch"],
        "transfer": "",
    }
