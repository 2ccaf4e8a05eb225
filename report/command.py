"""The command that trains a run once more."""

import shlex
from collections.abc import Iterator
from typing import Any

from featcache.report.runs import RunResults

# settings that `featcache train` has an option for, in its order
_OPTIONS = (
    "epochs", "width", "batch", "lr", "weight_decay", "loss", "temperature", "label_smoothing", "mixup",
    "keep_geometry", "joint", "captions", "missing", "pair_weights", "apart", "select", "hits", "shuffle_pairs",
    "k", "seed", "device",
)  # fmt: skip
CONTROL = "CONTROL"  # stands for the folder of the control, whose place a run does not record


def training_command(run: RunResults) -> str:
    """The command that trains a run of one seed from the same cached arrays.

    Its control, if it has one, is called CONTROL: a run records the hash of its configuration, not its folder.
    """
    words = ["featcache", "train", str(run.config["dataset"]), *_sides(run)]
    words += ["--reference", _selector(run.reference) if run.reference else "none"]
    words += [word for name, value in _changed(run).items() for word in _option(name, value)]
    words += ["--on-leak", "drop"] if run.config.get("leaks") == "dropped" else []
    words += ["--control", CONTROL] if run.config.get("control") else []
    return shlex.join(words)


def without_option(run: RunResults) -> dict[str, Any]:
    """The settings that are not the default and that `featcache train` has no option for: set by an experiment."""
    return {name: value for name, value in _changed(run).items() if name not in (*_OPTIONS, "adapter")}


def _changed(run: RunResults) -> dict[str, Any]:
    """The settings that are not the default: adapter first, then in the order of the options."""
    from featcache.trainer.config import default_settings

    default = default_settings()
    changed = {name: value for name, value in run.settings.items() if value != default.get(name)}
    order = ["adapter", *_OPTIONS]
    return dict(sorted(changed.items(), key=lambda one: order.index(one[0]) if one[0] in order else len(order)))


def _option(name: str, value: Any) -> Iterator[str]:
    if name == "adapter":
        yield from ("--adapter", value if isinstance(value, str) else ",".join(f"{s}={k}" for s, k in value.items()))
    elif name == "pair_weights":
        for pair, weight in value.items():
            yield from ("--pair-weight", f"{pair}={weight:g}")
    elif name in _OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        yield from (flag,) if value is True else (flag, f"{value:g}" if isinstance(value, float) else str(value))


def _sides(run: RunResults) -> list[str]:
    """The sides as `train` takes them, with their names where they are not those of their views."""
    sides = run.config["sides"]
    named_by_view = all(name == array["view"] for name, array in sides.items())
    return [("" if named_by_view else f"{name}=") + _selector(array) for name, array in sides.items()]


def _selector(array: dict[str, Any]) -> str:
    return f"{array['view']}/{array['encoder']}/{array['layer']}@{array['digest'][:12]}"
