"""Training runs: trains adapters on cached features, measures them, and writes the run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.measure.row import ContrastRow, Row, frame
from featcache.studies.adapters.layer_choice import LayerChoice
from featcache.studies.adapters.pictures.tables import picture_tables
from featcache.studies.adapters.results import Evaluation, final_results
from featcache.studies.leaks import IDENTICAL, Leaks, Source, find_leaks
from featcache.trainer.adapters import Adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.errors import LeaksFound, RunDamaged, RunExists
from featcache.trainer.fit import OnEpoch, fit_paired
from featcache.trainer.labels import check_labels
from featcache.trainer.run import (
    Run,
    existing_run,
    load_run,
    run_identity,
    run_provenance,
    write_results,
)
from featcache.trainer.run_files import LEAKS, write_json
from featcache.trainer.sides import PairedSides, leave_out, pair_sides
from featcache.trainer.tracking import REFERENCE
from featcache.trainer.unfinished import clear_unfinished, unfinished_folder

OnLeak = Literal["stop", "warn", "drop"]
# what pairing depends on
_PAIRING = ("split_seed", "missing", "k", "first_groups", "first_rows", "drawn_test", "drawn_validation")
_MEASURING = ("k", "permutations", "halves")  # what raw scores and mixtures depend on


@dataclass(frozen=True, eq=False)
class Workbench:
    """Features of several trainings on the same sides: paired once, raw spaces and mixtures measured once.

    Args:
        sides: Name -> features, two or more.
        reference: Features that alignment is measured against, or None.
        layers: How layers that were left open were chosen; config.json has it.
    """

    sides: Mapping[str, Features]
    reference: Features | None
    layers: Sequence[LayerChoice] = ()
    _paired: dict[tuple[Any, ...], PairedSides] = field(default_factory=lambda: {}, repr=False)
    _leaks: dict[tuple[Any, ...], Leaks] = field(default_factory=lambda: {}, repr=False)
    _evaluations: dict[tuple[Any, ...], Evaluation] = field(default_factory=lambda: {}, repr=False)

    @classmethod
    def load(cls, cache: Cache, selection: Selection, layers: Sequence[LayerChoice] = ()) -> "Workbench":
        """The features of a selection, from the cache; errors as `Cache.load`."""
        sides = {name: cache.load(selection.dataset, selector) for name, selector in selection.sides.items()}
        reference = cache.load(selection.dataset, selection.target) if selection.target else None
        return cls(selection.named(sides), reference, layers)

    def paired(self, config: FitConfig, on_leak: OnLeak = "warn") -> PairedSides:
        """The sides paired as a configuration says; with "drop", without the held-out groups that leak."""
        key = _values(config, _PAIRING)
        if key not in self._paired:
            self._paired[key] = pair_sides(self.sides, self.reference, config)
        if on_leak != "drop":
            return self._paired[key]
        if (*key, on_leak) not in self._paired:
            leaking = {split: groups for split, groups in self.leaks(config).groups.items() if groups}
            dataset = next(iter(self.sides.values())).dataset
            kept = leave_out(self._paired[key], leaking, config.k, dataset) if leaking else self._paired[key]
            self._paired[*key, on_leak] = kept
        return self._paired[*key, on_leak]

    def leaks(self, config: FitConfig) -> Leaks:
        """What of the validation and test groups stands in an earlier split too."""
        key = _values(config, _PAIRING)
        if key not in self._leaks:
            arrays = [*self.sides.values(), *([] if self.reference is None else [self.reference])]
            self._leaks[key] = find_leaks([Source.of(features) for features in arrays], self.paired(config).split_of())
        return self._leaks[key]

    def evaluation(self, config: FitConfig, on_leak: OnLeak = "warn") -> Evaluation:
        """Validation and test of the paired sides."""
        key = (*_values(config, (*_PAIRING, *_MEASURING)), on_leak == "drop")
        if key not in self._evaluations:
            leaking = self.leaks(config).groups.get("test", frozenset()) if on_leak != "drop" else frozenset[str]()
            self._evaluations[key] = Evaluation(self.paired(config, on_leak), config, leaking)
        return self._evaluations[key]


def _values(config: FitConfig, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


def train(
    features: Workbench,
    config: FitConfig,
    out: Path,
    *,
    on_leak: OnLeak = "warn",
    overwrite: bool = False,
    control: Run | None = None,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Trains, measures and writes one run folder.

    Everything is written to a hidden folder next to `out`, which takes its name at the very end; config.json, with the
    hashes of the validation and test groups, is written there before the first step. Such folders of killed trainings
    are removed first. Of two equal trainings at once, the second to end returns the run of the first.

    Args:
        features: Sides and reference.
        config: Settings.
        out: The run folder.
        on_leak: Where validation or test groups stand in an earlier split too: raise, record them and measure the clean
            part of the test split as well, or leave them out.
        overwrite: Replace another or damaged run (and only a run) that stands there.
        control: A run on the same sides with shuffled pairs, which the trained joint space is compared with.
        on_epoch: Called after every epoch.

    Returns:
        The run; if the same one (settings, digests, roots, overlay) stands there already, that one, `already_there`.

    Raises:
        RunExists: If `out` holds something else.
        LeaksFound: If groups leak and `on_leak` is "stop"; nothing is written then.
        NotPaired: If the arrays do not share groups, splits and overlay, or too few groups do not leak.
        UsageError: If the device is not there, there are no labels to train on, or the control is of other sides or no
            control.
        TrainingDiverged: If the loss is not finite.
    """
    out = Path(out)
    config.check_sides(features.sides)
    config.check_reference(features.reference is not None)
    leaks = features.leaks(config)
    if on_leak == "stop":
        _refuse(leaks)
    identity = run_identity(features.sides, features.reference, config, control, drop_leaks=on_leak == "drop")
    clear_unfinished(out)
    existing = existing_run(out, identity, overwrite=overwrite)
    if existing is not None:
        return existing
    shuffled = None if control is None else _control_adapters(control, features)
    check_labels(features.paired(config, on_leak), config)
    features.evaluation(config, on_leak)  # before anything is written: the sides may not pair
    try:
        with unfinished_folder(out, overwrite=overwrite) as folder:
            _train_into(folder, features, config, identity, on_leak=on_leak, control=shuffled, on_epoch=on_epoch)
    except RunExists:
        same = _same_run(out, identity)
        if same is None:
            raise
        return same
    return load_run(out)


def _same_run(out: Path, identity: dict[str, Any]) -> Run | None:
    """The run that an equal training has put there meanwhile; None if it is another."""
    try:
        return existing_run(out, identity, overwrite=False)
    except (RunExists, RunDamaged):
        return None


def _train_into(
    folder: Path,
    features: Workbench,
    config: FitConfig,
    identity: dict[str, Any],
    *,
    on_leak: OnLeak,
    control: Adapters | None,
    on_epoch: OnEpoch | None,
) -> None:
    """Trains, measures and writes the files of a run; other arguments as of `train`."""
    leaks = features.leaks(config)
    paired, evaluation = features.paired(config, on_leak), features.evaluation(config, on_leak)
    split = {**paired.split, "leaks": leaks.record()}
    arrays = {**features.sides, **({} if features.reference is None else {REFERENCE: features.reference})}
    widths = {name: array.width for name, array in arrays.items()}
    declared = {**identity, "split": split, "widths": widths, **run_provenance(config)}
    if features.layers:
        declared["layers"] = [asdict(choice) for choice in features.layers]
    write_json(folder / "config.json", declared)
    fitted = fit_paired(paired, config, validation=evaluation.validation, on_epoch=on_epoch)
    outcome: dict[str, Any] = {"selected_epoch": fitted.selected_epoch, "seconds": round(fitted.seconds, 3)}
    if fitted.chosen:
        outcome["chosen"] = fitted.chosen
    results = final_results(fitted, evaluation, control=control)
    # without times, so that equal trainings write equal files
    rows = [replace(row, seconds=0.0) for row in (*fitted.rows, *results.rows)]
    tables = {
        "metrics": frame(rows, Row),
        "contrasts": frame(results.contrasts, ContrastRow),
        **picture_tables(fitted, evaluation),
        Path(LEAKS).stem: leaks.table(),
    }
    write_results(folder, fitted.adapters, identity, tables)
    write_json(folder / "config.json", {**declared, **outcome})


def _refuse(leaks: Leaks) -> None:
    counts = [f"{len(groups)} {split}" for split, groups in leaks.groups.items() if groups]
    if not counts:
        return
    leaking = frozenset[str]().union(*leaks.groups.values())
    rows = [row for row in leaks.rows if row.group in leaking]
    rows = [row for row in rows if row.kind != IDENTICAL["text"]] or rows
    listed = "; ".join(f"{row.id} ({row.split}) = {row.match_id} ({row.match_split})" for row in rows[:5])
    more = f"; and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    raise LeaksFound(
        f"{' and '.join(counts)} groups stand in an earlier split too: {listed}{more}; nothing was written\n"
        "  Train with --on-leak drop, which leaves them out, or --on-leak warn, which scores the clean part of the "
        "test split beside; or mend the splits and extract again"
    )


def _control_adapters(control: Run, features: Workbench) -> Adapters:
    if not control.config["config"]["shuffle_pairs"]:
        raise UsageError(f"the run {control.path} is no control: its pairs are right\n  Train one with --shuffle-pairs")
    return control.adapters_for(features.sides)
