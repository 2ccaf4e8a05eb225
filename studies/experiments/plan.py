"""From an experiment to its trainings: every combination of what is varied, with its features, settings and folder."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.selectors import AUTO, parse_selector
from featcache.studies.experiments.spec import BY_SIDE, SOURCE, ExperimentInvalid, Source
from featcache.trainer.config import UNUSED_BY_LABELS, FitConfig, default_settings, make_config, unused_settings
from featcache.trainer.defaults import Selection, run_folder
from featcache.trainer.kinds import SOLVED_KINDS

RETRAINED: dict[str, dict[str, Any]] = {"shuffled": {"shuffle_pairs": True}, "labels": {"loss": "labels"}}


@dataclass(frozen=True)
class Training:
    """One training of an experiment.

    Args:
        selection: Data set, sides and reference, with their layers.
        config: Settings.
        folder: Of the run, below the folder of the study.
        panel: Further references that are measured after it.
        varied: Column -> value of what the experiment varies, "control" among them.
        transfer: Side as typed, and the other encoder whose features its adapter is measured on, stitched.
        probe: Label column that is read off its spaces; "" for none.
    """

    selection: Selection
    config: FitConfig
    folder: str
    panel: tuple[str, ...]
    varied: Mapping[str, Any] = field(default_factory=lambda: {})
    transfer: tuple[tuple[str, str], ...] = ()
    probe: str = ""

    @property
    def title(self) -> str:
        """What tells it from the others, in one line."""
        parts = [f"{name} {_text(value)}" for name, value in self.varied.items() if value != ""]
        return ", ".join(parts) or self.folder


@dataclass(frozen=True)
class Outcome:
    """What came of one training and of what is measured after it.

    Args:
        folder: Of the run, below the folder of the study.
        computed: Whether anything was trained or measured; False where all of it was there.
        panel: Reference as typed -> its view, encoder and layer, and the path of its tables below the folder of the
            study, without their endings; None where the training itself failed.
        error: Type and message of what failed, "" where all went well.
        transfers: Side→encoder -> path of the table of its adapter on another encoder's features, likewise.
        probes: Label -> path of the table of its probes, likewise.
        lacking: Key of one of the three -> why it is not there.
    """

    folder: str
    computed: bool = False
    panel: Mapping[str, tuple[str, str]] | None = None
    error: str = ""
    transfers: Mapping[str, str] = field(default_factory=lambda: {})
    probes: Mapping[str, str] = field(default_factory=lambda: {})
    lacking: Mapping[str, str] = field(default_factory=lambda: {})

    def asked_for(self, training: Training) -> "Outcome":
        """The same with nothing but what one training asks for, where several share a run; errors put together."""
        transfers = [transfer_label(side, encoder) for side, encoder in training.transfer]
        wanted = (*training.panel, *transfers, training.probe)
        errors = [self.error, *(why for name, why in self.lacking.items() if name in wanted)]
        return replace(
            self,
            panel=None if self.panel is None else {name: self.panel[name] for name in training.panel
                                                   if name in self.panel},
            error="\n".join(filter(None, errors)),
            transfers={name: path for name, path in self.transfers.items() if name in transfers},
            probes={name: path for name, path in self.probes.items() if name == training.probe},
            lacking={},
        )  # fmt: skip


def transfer_label(side: str, encoder: str) -> str:
    """How tables call a transfer: the encoder of a side as typed, and the other one."""
    return f"{parse_selector(side.rpartition('=')[2]).encoder}→{encoder}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plan(cache: Cache, source: Source, *, skip_uncached: bool = False) -> list[Training]:
    """Every training of an experiment, in the order of its file.

    Args:
        cache: Where layers are looked up, if the experiment names them by depth.
        source: The experiment.
        skip_uncached: Leave out trainings, further references and transfers whose features are not cached.

    Raises:
        ExperimentInvalid: If a combination of settings is not allowed; names the combination.
        FeaturesNotCached: If layers are named by depth and none is cached.
    """
    trainings: list[Training] = []
    holds = functools.cache(cache.holds)  # combinations share their features
    for varied, settings in combinations(source):
        try:
            selection = _selection(settings)
            if skip_uncached and not all(holds(selection.dataset, each) for each in selection.selectors):
                continue
            trainings += _trainings(cache, source, varied, settings)
        except ExperimentInvalid:
            raise
        except UsageError as error:
            named = [f"{name} {_text(value)}" for name, value in varied.items() if value != ""]
            which = ", ".join(named) or "base"
            raise ExperimentInvalid(f"{source.file}: {which}: {error}") from error
    return [_cached_part(holds, training) for training in trainings] if skip_uncached else trainings


def _cached_part(holds: Callable[[str, str], bool], training: Training) -> Training:
    dataset = training.selection.dataset
    panel = tuple(name for name in training.panel if holds(dataset, name))
    transfer = tuple(pair for pair in training.transfer if holds(dataset, pair[1]))
    return replace(training, panel=panel, transfer=transfer)


def combinations(source: Source) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Columns of what is varied, and all settings, of each combination: the last list of the file varies quickest.

    An adapter in closed form stands once beside what is varied of training by steps, and has no such columns; training
    on labels stands once beside the losses, and its loss is "labels".
    """
    experiment = source.experiment
    axes: list[list[tuple[dict[str, Any], dict[str, Any]]]] = []
    if experiment.variants:
        axes.append([({"variant": name}, settings) for name, settings in experiment.variants.items()])
    for lists in experiment.zip.values():
        rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        axes.append([(row, row) for row in rows])
    axes += [[({name: value}, {name: value}) for value in values] for name, values in experiment.grid.items()]
    retrained = [(name, settings) for name, settings in RETRAINED.items() if name in experiment.controls]
    axes.append([({"control": name}, settings) for name, settings in [("", {}), *retrained]])
    base = dict(experiment.base)
    if "permuted" in experiment.controls:
        base["permute_evaluation"] = True
    once: set[str] = set()
    for chosen in itertools.product(*axes):
        varied = {name: value for columns, _ in chosen for name, value in columns.items()}
        settings = {name: value for _, assigned in chosen for name, value in assigned.items()}
        if _contradicts(varied["control"], base | settings):
            continue
        if any(_matches(rule, base | settings | varied) for rule in experiment.leave_out):
            continue
        adapter = (base | settings).get("adapter")
        unused = {*unused_settings(adapter)} & {*varied} if isinstance(adapter, str) else set[str]()
        replaced = {"loss": "labels"} if varied["control"] == "labels" and "loss" in varied else {}
        if unused or replaced:
            varied, settings = _without(varied, unused) | replaced, _without(settings, unused)
            same = json.dumps(varied)
            if same in once:
                continue
            once.add(same)
        yield varied, _nested(base | settings)


def _matches(rule: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether settings have each value of a rule, or one of its list; those that are not named are the defaults."""
    own = {**default_settings(), **settings}
    return all(own.get(name) in (wanted if isinstance(wanted, list) else [wanted]) for name, wanted in rule.items())


def _contradicts(control: str, settings: Mapping[str, Any]) -> bool:
    """Whether a training has no such control: pairs that are all wrong cannot be swapped, and labels have no pairs."""
    if control == "shuffled":
        return bool(settings.get("swap"))
    wholly = {name.partition(".")[0]: value for name, value in settings.items()}
    return control == "labels" and (
        wholly.get("adapter") in SOLVED_KINDS or any(wholly.get(name) for name in UNUSED_BY_LABELS)
    )


def _without(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def selections(source: Source) -> list[Selection]:
    """The data sets with sides and reference that an experiment trains on, before layers are looked up by depth.

    Raises:
        UsageError: If a data set, sides or reference are not of their form.
    """
    return list(dict.fromkeys(_selection(settings) for _, settings in combinations(source)))


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of single sides, as in depth.minilm, put together."""
    whole = {name: value for name, value in settings.items() if "." not in name}
    for name, value in settings.items():
        setting, _, side = name.partition(".")
        if side:
            known = whole.get(setting)
            whole[setting] = {**(known if isinstance(known, dict) else {}), side: value}
    return whole


def _trainings(
    cache: Cache, source: Source, varied: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[Training]:
    config = make_config(**{name: value for name, value in settings.items() if name not in SOURCE})
    selection = _selection(settings)
    if "depth" in settings:
        selection = _at_depth(cache, selection, settings["depth"])
    panel = tuple(name for name in source.experiment.panel if name != selection.reference)
    transfer, probed = _transfers(source, selection), source.experiment.probe
    columns = {name: _column_value(name, value) for name, value in varied.items()}
    if not config.reads_reference:
        yield Training(selection, config, run_folder(selection, config), panel, columns, transfer, probed)
        return
    for reference in (selection.reference, *panel):
        other = replace(selection, reference=reference)
        yield Training(other, config, run_folder(other, config), (), columns, transfer, probed)


def _transfers(source: Source, selection: Selection) -> tuple[tuple[str, str], ...]:
    """The sides that are moved to other encoders, each with one that it is not of already."""
    sides = {_short(typed): typed for typed in selection.encoders}
    wanted = [(sides[side], other) for side, others in source.experiment.transfer.items() if side in sides
              for other in others]  # fmt: skip
    return tuple((typed, other) for typed, other in wanted if other != typed.rpartition("=")[2])


def _column_value(name: str, value: Any) -> Any:
    return (
        json.dumps(value, sort_keys=True) if isinstance(value, list | dict) and name in (*BY_SIDE, "sides") else value
    )


def _selection(settings: Mapping[str, Any]) -> Selection:
    dataset, sides, reference = (settings.get(name) for name in ("dataset", "sides", "reference"))
    if not isinstance(dataset, str) or not isinstance(sides, list) or not all(isinstance(one, str) for one in sides):
        raise UsageError(f"dataset {dataset!r} and sides {sides!r}: wanted a text and a list of selectors")
    if len(sides) < 2:
        raise UsageError(f"sides {sides!r}: a joint space needs two or more")
    if auto := [one for one in sides if one.endswith(f"/{AUTO}")]:
        raise UsageError(f"{auto[0]}: a sweep chooses no layer\n  Name layers; featcache train tells what it chose")
    if not isinstance(reference, str | None):
        raise UsageError(f"reference {reference!r}: wanted a selector, or none")
    return Selection(dataset, tuple(sides), None if reference in (None, "none") else reference)


# -- layers by depth --------------------------------------------------------------------------------------------------


def _at_depth(cache: Cache, selection: Selection, depth: float | Mapping[str, float]) -> Selection:
    """Sides with the cached layer nearest to a depth: 0 the first, 1 the last, for all sides or side -> depth."""
    by_side = depth if isinstance(depth, Mapping) else dict.fromkeys(map(_short, selection.encoders), depth)
    sides = {_short(typed): typed for typed in selection.encoders}
    for side, wanted in by_side.items():
        if side not in sides:
            raise UsageError(f"depth.{side}: the sides are {', '.join(sides)}")
        if not isinstance(wanted, int | float) or not 0 <= wanted <= 1:
            raise UsageError(f"depth.{side} = {wanted!r}: wanted a number from 0, the first layer, to 1, the last")
    encoders = [
        _with_layer(cache, selection.dataset, typed, by_side[side]) if side in by_side else typed
        for side, typed in sides.items()
    ]
    return replace(selection, encoders=tuple(encoders))


def _short(typed: str) -> str:
    """What a side is called in depth.SIDE: the name that it was given, else its encoder."""
    name, _, selector = typed.rpartition("=")
    return name or parse_selector(selector).encoder


def _with_layer(cache: Cache, dataset: str, typed: str, depth: float) -> str:
    layers = cached_layers(cache, dataset, typed.rpartition("=")[2])
    layer = layers[round(depth * (len(layers) - 1))]
    name, equals, selector = typed.rpartition("=")
    return f"{name}{equals}{replace(parse_selector(selector), layer=layer)}"


def cached_layers(cache: Cache, dataset: str, selector: str) -> list[str]:
    """Complete cached layers of an encoder by depth, of the pooling of its default layer; "last" is the deepest.

    Raises:
        FeaturesNotCached: If the encoder has no complete array.
    """
    wanted = parse_selector(selector)
    default = cache.find(dataset, replace(wanted, layer=None)).name
    pooling = default.layer.partition(".")[2]
    arrays = cache.arrays(dataset, default.view, default.encoder, "*")
    names = {array.name.layer for array in arrays if array.is_complete and not array.name.is_graph}
    parts = [name.partition(".") for name in names]
    known = [(layer, name) for (layer, _, pool), name in zip(parts, names, strict=True) if pool == pooling]
    numbered = [
        (int(layer) if layer.isdigit() else 10**9, name) for layer, name in known if layer.isdigit() or layer == "last"
    ]
    return [name for _, name in sorted(numbered)]


def run_path(out: Path, training: Training) -> Path:
    """The run folder of a training, in the folder of a study."""
    return out / training.folder


def one_each(trainings: Sequence[Training]) -> list[Training]:
    """Trainings of different folders: the first of those that share one, with the panels of all."""
    first: dict[str, Training] = {}
    for training in trainings:
        known = first.get(training.folder)
        base = known or training
        panel = tuple(dict.fromkeys((*base.panel, *training.panel)))
        transfer = tuple(dict.fromkeys((*base.transfer, *training.transfer)))
        first[training.folder] = replace(base, panel=panel, transfer=transfer, probe=base.probe or training.probe)
    return [*first.values()]
