"""Run folders of format 1 (featcache 0.1: two sides, x and y) in the words of format 2."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.metrics.measure.row import ContrastRow, Row, frame

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

FILES = ("config.json", "adapters.safetensors", "metrics.parquet", "map.parquet", "kernels.parquet")
SIDES = ("x", "y")


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with `sides` and `reference` instead of `features`."""
    rest = {name: value for name, value in config.items() if name != "features"}
    features = config["features"]
    return {**rest, "sides": {side: features[side] for side in SIDES}, "reference": features["reference"]}


def renamed_weights(weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Weights under the names of `featcache.trainer.adapters.Adapters`."""
    return {name if name == "log_scale" else f"sides.{name}": tensor for name, tensor in weights.items()}


def table(path: Path, name: str) -> "pl.DataFrame":
    """A table of the run; there are no contrasts in one of format 1."""
    import polars as pl

    if name == "contrasts":
        return frame([], ContrastRow)
    old = pl.read_parquet(path / f"{name}.parquet")
    return frame([_row(row) for row in old.to_dicts()], Row) if name == "metrics" else old


def _row(old: Mapping[str, Any]) -> Row:
    space, against, metric = old["space"], old["against"], old["metric"]
    null = old["null_low"] is not None
    estimand = old["estimand"] or ""
    if metric == "loss":
        space, against = "joint", ""
    elif old["direction"]:
        space, against = old["direction"].split("→")
    elif against == "pair":
        space, against = SIDES
    elif old["stage"] == "mixed":
        space = "mixed"
    w = old["w"]
    return Row(
        space,
        against,
        "cka_linear" if metric == "cka" else metric,
        old["value"],
        n=old["n"],
        k=old["k"],
        chance=old["chance"],
        null_low=old["null_low"],
        null_high=old["null_high"],
        null=estimand.rpartition(", ")[2].removeprefix("of ") if null else "none",
        ci_low=old["ci_low"],
        ci_high=old["ci_high"],
        estimand="" if null else estimand,
        interval="as recorded" if old["ci_low"] is not None else "none",
        stage=old["stage"],
        split=old["split"],
        epoch=old["epoch"],
        direction=old["direction"],
        higher_is_better=metric not in ("loss", "median_rank"),
        weights="" if w is None else json.dumps({"x": w, "y": round(1 - w, 10)}),
    )
