"""Where the spaces of a downstream task come from: features of a run's sides on a data set, and the rule on labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from featcache.cache import Cache
from featcache.data.datasets import declared_dataset, extract_command, known_entry, label_hint, made_from_labels
from featcache.data.declared import check_stated, user_datasets_path
from featcache.data.errors import DataInvalid
from featcache.data.perturbations import original_view
from featcache.data.toml_faults import did_you_mean
from featcache.errors import Ambiguous, FeaturesNotCached, OutdatedRows, UsageError
from featcache.features import Features
from featcache.notices import notice
from featcache.trainer.adapters import Adapters
from featcache.trainer.run import Run, load_run


@dataclass(frozen=True, eq=False)
class RunOnData:
    """A run and what a data set has cached of its sides.

    Args:
        name: How its spaces are told from those of other runs; "" where it is the only one.
        run: The run.
        sides: Side -> features on the data set; those that are cached.
        reference: The run's reference on the data set, where it is cached.
        notes: What is to be said of sides that are not there.
    """

    name: str
    run: Run
    sides: Mapping[str, Features]
    reference: Features | None
    notes: Sequence[str]

    def titled(self, space: str) -> str:
        """Name of one of its spaces."""
        return f"{self.name}: {space}" if self.name else space

    def weights(self) -> dict[str, Adapters]:
        """Stage -> adapters: as trained, and before the first step."""
        return {"trained": self.run.adapters(), "untrained": self.run.untrained()}


def runs_on_data(cache: Cache, dataset: str, folders: Sequence[Path]) -> list[RunOnData]:
    """Opens runs, and loads what a data set has of their sides and references.

    Args:
        cache: The cache.
        dataset: The data set of the task: that of the runs, or another.
        folders: Run folders.

    Raises:
        RunMissing, RunDamaged: As `load_run`.
        FeaturesNotCached: If the data set has features of none of a run's sides.
        UsageError: If features are of other weights or settings than the run was trained on, or the data set's splits
            have changed since.
    """
    names = [folder.name for folder in folders]
    titles = ["" if len(folders) == 1 else str(each) for each in (names if len(set(names)) == len(names) else folders)]
    return [_on_data(cache, dataset, load_run(folder), title) for folder, title in zip(folders, titles, strict=True)]


def _on_data(cache: Cache, dataset: str, run: Run, name: str) -> RunOnData:
    own, sides, notes = dataset == run.config["dataset"], dict[str, Features](), list[str]()
    problem: FeaturesNotCached | None = None
    for side, used in run.config["sides"].items():
        try:
            sides[side] = _features(cache, dataset, run, used, own=own)
        except FeaturesNotCached as error:
            problem = error
            how = extract_command(dataset, used["encoder"])
            notes.append(f"{side}: {dataset} has no {used['encoder']}/{used['layer']} in the cache ({how})")
    if not sides and problem is not None:
        raise problem
    if own and any(features.overlay != run.config["overlay"] for features in sides.values()):
        raise UsageError(
            f"the splits or labels of {dataset} have changed since {run.path} was trained: which of today's test "
            "groups it has seen is not known\n  Train it again"
        )
    used = run.config["reference"]
    try:
        reference = _features(cache, dataset, run, used, own=own) if used else None
    except FeaturesNotCached:
        reference = None
        notes.append(f"the run's reference {used['encoder']}/{used['layer']} is not cached for {dataset}")
    return RunOnData(name, run, sides, reference, notes)


def _features(cache: Cache, dataset: str, run: Run, used: Mapping[str, str], *, own: bool) -> Features:
    """Features of the encoder, layer and weights that a run was trained on; of another view where its own is not."""
    if own:
        return cache.load(dataset, f"{used['encoder']}/{used['layer']}@{used['digest']}", view=used["view"])
    name = f"{used['encoder']}/{used['layer']}"
    try:
        features = cache.load(dataset, name, view=used["view"])
    except FeaturesNotCached:
        features = cache.load(dataset, name)
    if used.get("encoder_hash") not in (None, features.encoder_hash):
        raise UsageError(
            f"{features.name} of {dataset} has other weights or settings than the encoder that {run.path} was trained "
            f"on\n  Extract {dataset} with the encoder of {run.config['dataset']}"
        )
    return features


def other_views(cache: Cache, features: Features) -> list[Features]:
    """What is cached of the same encoder, weights and layer on other views of the data set, by the views' names."""
    arrays = cache.arrays(features.dataset, "*", features.encoder, features.layer)
    views = sorted({array.name.view for array in arrays if array.is_complete} - {features.view})
    loaded = list[Features]()
    for view in views:
        try:
            loaded.append(cache.load(features.dataset, features.name, view=view))
        except (Ambiguous, OutdatedRows) as error:
            notice(f"left out, {error}")
    return [each for each in loaded if each.encoder_hash == features.encoder_hash]


@dataclass(frozen=True)
class LabelRule:
    """What may be probed for a label: nothing that was made from it.

    Args:
        dataset: Data set name.
        label: Label column.
        views: Views that the user says are made from labels, beside those that the data set's entry names.
    """

    dataset: str
    label: str
    views: tuple[str, ...] = ()

    def forbids(self, features: Features) -> bool:
        """Whether the contents of an array's view are made from the label; DataInvalid as `made_from_labels`."""
        made_from = self.label in made_from_labels(self.dataset, features.view)
        return made_from or bool({features.view, original_view(features.view)} & {*self.views})

    def reason(self, features: Features) -> str:
        """Why a space is left out."""
        return f"left out: view {features.view} is made from the label {self.label}"

    def hint(self, features: Features) -> str:
        """How an array that may be probed gives the label away in part; "" where nothing is known."""
        how = label_hint(self.dataset, features.view, self.label)
        return f"view {features.view} gives the label {self.label} away in part: {how}" if how else ""


def label_rule(cache: Cache, dataset: str, arrays: Sequence[Features], label: str, views: Sequence[str]) -> LabelRule:
    """The rule of a label, once the names that it goes by are known to be names of something.

    Args:
        cache: The cache.
        dataset: Data set name.
        arrays: Features of it, one or more.
        label: Label column.
        views: Views that the user says are made from labels.

    Raises:
        UsageError: If one of them is neither a view that is cached nor one that the data set's entry names, or the
            user's own entry says that a view is made from a label that the arrays do not have.
        DataInvalid: As `made_from_labels`.
    """
    entry = known_entry(dataset)
    listed = () if entry is None else entry.views
    cached = sorted({array.name.view for array in cache.arrays(dataset)} | {features.view for features in arrays})
    for view in views:
        if not any(fnmatchcase(original_view(view), name) for name in [*listed, *cached]):
            there = [*dict.fromkeys([*listed, *cached])]
            raise UsageError(
                f"--label-view {view}: {dataset} has no such view{did_you_mean(view, there)}\n"
                f"  Its views: {', '.join(there)}"
            )
    declared = declared_dataset(dataset)
    if declared is not None:
        try:
            check_stated(declared.entry, listed, [*dict.fromkeys(name for each in arrays for name in each.labels)])
        except DataInvalid as error:
            raise UsageError(f"data set {dataset!r} in {user_datasets_path()} is not valid\n  {error}") from None
    return LabelRule(dataset, label, tuple(views))
