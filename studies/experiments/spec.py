"""The form of an experiment's TOML file, and errors that name file, key and the nearest known name."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featcache.errors import UsageError
from featcache.metrics.measure.row import Row, columns
from featcache.trainer.config import FitConfig

Scalar = bool | int | float | str
Control = Literal["shuffled", "labels", "untrained", "permuted"]
PROFILES = ("quick", "full")
SOURCE = ("dataset", "sides", "reference", "depth")  # settings that choose features; all others are FitConfig's
BY_SIDE = ("depth", "adapter", "pair_weights")  # settings that may be given a side, as in depth.minilm
RESERVED_AXES = ("variant", "control")
# columns of a tidy table before those that were varied and those of the run's own tables
CONTEXT = (
    "experiment", "profile", "run", "dataset", "sides", "layers", "reference", "panel", "adapter", "seed", "control",
    "trained_on", "selected_epoch", "transfer",
)  # fmt: skip


class ExperimentInvalid(UsageError):
    """An experiment's file, or a change to it, that is not of its form."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = dict[str, Any]
Lists = dict[str, Annotated[list[Any], Field(min_length=1)]]
Rule = Annotated[dict[str, Scalar | list[Scalar]], Field(min_length=1)]


class Plot(_Strict):
    """What one figure shows of the tidy table: mean over seeds of `value`, a point for each x, colour and facet."""

    name: str
    x: str
    y: Literal["value", "calibrated"] = "value"
    colour: str = ""
    facet: str = ""
    where: dict[str, Scalar | list[Scalar]] = {}


class Profile(_Strict):
    """What a profile changes: settings of the base, lists of the grid, names of variants, and whole other lists."""

    base: Settings = {}
    grid: Lists = {}
    zip: dict[str, Lists] = {}
    variants: list[str] | None = None
    panel: list[str] | None = None
    controls: list[Control] | None = None
    leave_out: list[Rule] | None = None


class Experiment(_Strict):
    """One question, the trainings that answer it, and what is drawn of them.

    Args:
        question: One sentence.
        base: Settings of every training: dataset, sides, reference, and any field of FitConfig.
        grid: Setting -> values; all lists are crossed.
        zip: Name -> settings -> values, lists of one length that advance together; crossed with the rest.
        variants: Name -> settings; one axis, crossed with the rest.
        panel: Further references, measured after training where training does not read the reference.
        controls: "shuffled" adds every training with permuted pairs, "labels" every one on the data set's labels
            instead of pairs; "permuted" measures test with permuted pairs too, "untrained" keeps the rows of untrained
            adapters.
        leave_out: Combinations that are not trained: those that have all values of a rule, or one of each list.
        transfer: Encoder of a side -> others whose features a ridge regression maps to its own, for the trained adapter
            to be measured on them as it is.
        probe: Label column that is read off the spaces of every training; "" for none.
        profiles: Changes by name; "quick" and "full" are there without any.
        plots: What is plotted.
    """

    question: Annotated[str, Field(min_length=1)]
    base: Settings
    grid: Lists = {}
    zip: dict[str, Lists] = {}
    variants: dict[str, Settings] = {}
    panel: list[str] = []
    controls: list[Control] = []
    leave_out: list[Rule] = []
    transfer: dict[str, list[str]] = {}
    probe: str = ""
    profiles: dict[Literal["quick", "full"], Profile] = {}
    plots: list[Plot] = []


@dataclass(frozen=True)
class Source:
    """An experiment with the name and file that errors and tables call it by.

    Args:
        name: The file's name without its ending.
        file: As it was named.
        profile: Of `experiment`.
        experiment: With the changes of the profile and of the command line.
    """

    name: str
    file: str
    profile: str
    experiment: Experiment


def load_experiment(file: Path, profile: str = "quick", changes: Iterable[str] = ()) -> Source:
    """Reads an experiment, with the changes of a profile and then those of the command line.

    Args:
        file: A TOML file.
        profile: A name of PROFILES.
        changes: KEY=VALUE each, the value as in TOML; a list takes the place of a list of the grid, another value
            fixes the setting.

    Raises:
        ExperimentInvalid: If the file cannot be read, or anything in it is not known; names file, key and what is near.
    """
    if profile not in PROFILES:
        raise ExperimentInvalid(f"profile {profile!r}: wanted one of {', '.join(PROFILES)}")
    experiment = _parsed(file)
    _check_names(experiment, str(file))
    experiment = _with_changes(_with_profile(experiment, profile, str(file)), changes)
    _check_names(experiment, str(file))
    _check_axes(experiment, str(file))
    return Source(file.stem, str(file), profile, experiment)


def _parsed(file: Path) -> Experiment:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [path.name for path in sorted(file.parent.glob("*.toml"))]
        raise ExperimentInvalid(f"no experiment {file}{nearest(file.name, beside)}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentInvalid(f"{file} cannot be read as TOML: {error}") from None
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise ExperimentInvalid("\n  ".join(_problem(one, str(file)) for one in error.errors())) from None


def _problem(error: Mapping[str, Any], file: str) -> str:
    place = [str(part) for part in error["loc"]]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        kind: type[BaseModel] = {"plots": Plot, "profiles": Profile}.get(place[0], Experiment)
        return f"{file}: unknown key {key}{nearest(place[-1], kind.model_fields)}"
    if place[0] == "profiles" and place[-1] == "[key]":
        return f"{file}: unknown profile {place[1]!r}{nearest(place[1], PROFILES)}"
    if error["type"] == "missing":
        return f"{file}: {key} is missing"
    given = f" = {error['input']!r}" if isinstance(error["input"], Scalar) else ""
    choices = [
        part.strip("'") for part in str(error.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(", ")
    ]
    near = nearest(str(error["input"]), choices) if error["type"] == "literal_error" else ""
    return f"{file}: {key}{given}: {error['msg']}{near}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to a mistyped one, else all of them, as the end of a message.

    Example:
        >>> nearest("grd", ["grid", "base"])
        '; the nearest there is: grid'
        >>> nearest("xyz", ["grid", "base"])
        '; there are base, grid'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; the nearest there is: {near[0]}"
    return f"; there are {', '.join(names)}" if names else ""


# -- names of settings and columns ------------------------------------------------------------------------------------


def settings_names() -> tuple[str, ...]:
    """Every setting that an experiment may fix or vary."""
    return (*SOURCE, *FitConfig.model_fields)


def _check_setting(name: str, place: str, file: str) -> None:
    whole, _, side = name.partition(".")
    if name in settings_names() or (side and whole in BY_SIDE):
        return
    raise ExperimentInvalid(f"{file}: {place}.{name} is no setting{nearest(whole, settings_names())}")


def _check_names(experiment: Experiment, file: str) -> None:
    named = {"base": experiment.base, "grid": experiment.grid}
    named |= {f"zip.{name}": lists for name, lists in experiment.zip.items()}
    named |= {f"variants.{name}": settings for name, settings in experiment.variants.items()}
    for place, settings in named.items():
        for name in settings:
            _check_setting(name, place, file)
    for number, rule in enumerate(experiment.leave_out):
        for name in rule:
            if name not in RESERVED_AXES:
                _check_setting(name, f"leave_out.{number}", file)
    for name in ("dataset", "sides"):
        of_variants = bool(experiment.variants) and all(name in one for one in experiment.variants.values())
        if name not in experiment.base and name not in varied_names(experiment) and not of_variants:
            raise ExperimentInvalid(f"{file}: base.{name} is missing: which features are the trainings of?")
    for name, lists in experiment.zip.items():
        lengths = {key: len(values) for key, values in lists.items()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ExperimentInvalid(f"{file}: zip.{name}: the lists advance together and differ in length: {listed}")


def varied_names(experiment: Experiment) -> list[str]:
    """The columns of what is varied, in the order of the file."""
    names = dict.fromkeys(experiment.grid)
    names |= dict.fromkeys(key for lists in experiment.zip.values() for key in lists)
    return [*(["variant"] if experiment.variants else []), *names]


def column_of(name: str) -> str:
    """The column that a varied setting has in the tidy table: its name, unless the rows have a column of that name.

    Example:
        >>> column_of("width"), column_of("k")
        ('width', 'config.k')
    """
    return f"config.{name}" if name in columns(Row) else name


def _check_axes(experiment: Experiment, file: str) -> None:
    grid, zipped = [*experiment.grid], [key for lists in experiment.zip.values() for key in lists]
    keys = [*grid, *zipped, *{key for settings in experiment.variants.values() for key in settings}]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ExperimentInvalid(f"{file}: {twice[0]} is varied twice: in grid, zip or variants, not in two of them")
    for key in dict.fromkeys((*grid, *zipped)):
        if key in experiment.base:
            raise ExperimentInvalid(f"{file}: {key} is fixed in base and varied by a list: one of the two")
    known = [*CONTEXT, *map(column_of, varied_names(experiment)), *columns(Row)]
    for number, plot in enumerate(experiment.plots):
        used = {"x": plot.x, "colour": plot.colour, "facet": plot.facet} | {
            f"where.{name}": name for name in plot.where
        }
        for what, name in used.items():
            if name and name not in known:
                place = f"{file}: plots.{number}.{what} = {name!r}"
                raise ExperimentInvalid(f"{place} is no column of the tidy table{nearest(name, known)}")


# -- changes ----------------------------------------------------------------------------------------------------------


def _with_profile(experiment: Experiment, profile: str, file: str) -> Experiment:
    changes = experiment.profiles.get(profile, Profile())  # pyright: ignore[reportArgumentType, reportCallIssue]
    variants = experiment.variants
    if changes.variants is not None:
        for name in changes.variants:
            if name not in variants:
                raise ExperimentInvalid(f"{file}: profiles.{profile}.variants: no {name!r}{nearest(name, variants)}")
        variants = {name: variants[name] for name in changes.variants}
    return experiment.model_copy(
        update={
            "base": experiment.base | changes.base,
            "grid": experiment.grid | changes.grid,
            "zip": experiment.zip | changes.zip,
            "variants": variants,
            "panel": experiment.panel if changes.panel is None else changes.panel,
            "controls": experiment.controls if changes.controls is None else changes.controls,
            "leave_out": experiment.leave_out if changes.leave_out is None else changes.leave_out,
        }
    )


def _with_changes(experiment: Experiment, changes: Iterable[str]) -> Experiment:
    for text in changes:
        name, _, typed = text.partition("=")
        name, value = name.strip(), _value(typed.strip())
        if not name or not typed.strip():
            raise ExperimentInvalid(f"--set {text!r}: wanted KEY=VALUE, as in epochs=5 or seed=[0,1]")
        if name in ("panel", "controls"):
            experiment = _replaced(experiment, name, value)
            continue
        fixed = [key for lists in experiment.zip.values() for key in lists]
        fixed += [key for settings in experiment.variants.values() for key in settings]
        if name in fixed:
            raise ExperimentInvalid(
                f"--set {name}: it is varied by a zip or by variants of the experiment; edit the file"
            )
        several = isinstance(value, list) and (name != "sides" or all(isinstance(one, list) for one in value))
        if several or name in experiment.grid:  # one that was varied stays a column of the tables
            grid = {**experiment.grid, name: value if several else [value]}
            base = {key: fixed for key, fixed in experiment.base.items() if key != name}
            experiment = experiment.model_copy(update={"grid": grid, "base": base})
        else:
            experiment = experiment.model_copy(update={"base": {**experiment.base, name: value}})
    return experiment


def _replaced(experiment: Experiment, name: str, value: Any) -> Experiment:
    try:
        return Experiment.model_validate(experiment.model_dump() | {name: value})
    except ValidationError as error:
        raise ExperimentInvalid("\n  ".join(_problem(one, "--set") for one in error.errors())) from None


def _value(text: str) -> Any:
    """A value as in TOML; a word without quotes is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
