"""Seeded tables of the synthetic study, as its training leaves them, with relations that are planted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featcache.studies.emergence.synthetic.encoders import EmergenceTables
from featcache.studies.emergence.synthetic.written import MODEL

# of the released label tables, from studies/emergence/synthetic/oracles.py, to three decimals
POSTERIORS = (1.000, 0.828, 0.561, 0.387, 0.261, 0.215, 0.108, 0.084, 0.000)
PARTS = {
    "broja_redundancy": (1.159, 0.972, 0.749, 0.591, 0.471, 0.384, 0.363, 0.337, 0.273),
    "broja_unique1": (0.0, 0.0, 0.222, 0.124, 0.244, 0.110, 0.130, 0.030, 0.094),
    "broja_unique2": (0.0, 0.187, 0.131, 0.295, 0.263, 0.388, 0.244, 0.282, 0.201),
    "broja_synergy": (0.0, 0.0, 0.056, 0.149, 0.181, 0.278, 0.421, 0.510, 0.591),
    "common_redundancy": (1.159, 0.972, 0.715, 0.494, 0.367, 0.259, 0.152, 0.088, 0.0),
    "common_unique1": (0.0, 0.0, 0.257, 0.222, 0.348, 0.234, 0.341, 0.278, 0.367),
    "common_unique2": (0.0, 0.187, 0.165, 0.393, 0.366, 0.513, 0.456, 0.530, 0.473),
    "common_synergy": (0.0, 0.0, 0.022, 0.051, 0.077, 0.153, 0.210, 0.262, 0.319),
    "i_min_redundancy": (1.159, 0.972, 0.814, 0.715, 0.640, 0.474, 0.462, 0.365, 0.326),
    "i_min_unique1": (0.0, 0.0, 0.158, 0.0, 0.075, 0.020, 0.031, 0.002, 0.041),
    "i_min_unique2": (0.0, 0.187, 0.067, 0.172, 0.093, 0.298, 0.145, 0.254, 0.147),
    "i_min_synergy": (0.0, 0.0, 0.120, 0.272, 0.351, 0.367, 0.520, 0.538, 0.645),
}
METRICS = ("cka_clipped", "cka_debiased", "mutual_knn", "cka_population")
QUICK_DEPTHS, QUICK_MAPS = (1, 3, 6, 10), (1, 4, 7, 10)


def oracles() -> pl.DataFrame:
    """One row a U."""
    columns = {"posterior_cka": POSTERIORS, **PARTS}
    names = {"generator": ["released"] * 9, "uniqueness": list(range(9))}
    return pl.DataFrame({**names, **{name: list(values) for name, values in columns.items()}})


def study(
    folder: Path,
    *,
    seeds: Sequence[int] = (2,),
    depths: Sequence[int] = QUICK_DEPTHS,
    maps: Sequence[int] = QUICK_MAPS,
    link: float = 1.0,
    noise: float = 0.02,
    seed: int = 0,
) -> EmergenceTables:
    """Tables whose exact CKA follows the posteriors' and the depths, and estimates it with noise.

    Args:
        folder: Where they would lie.
        seeds: Base seeds of the encoders.
        depths: Of the encoders of the second modality.
        maps: Of the second modality.
        link: How much of an encoder's own quality both its alignment and its accuracy have, at U = 0; none at U = 8.
        noise: Standard deviation of an estimate of CKA.
        seed: Of every number.
    """
    rng = np.random.default_rng(seed)
    models: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for u in range(9):
        for phi_depth in maps:
            for depth in depths:
                quality = 0.03 * np.tanh((depth - phi_depth) / 4) + rng.normal(0, 0.005)
                for base in seeds:
                    keys = _keys(u, phi_depth, depth, base)
                    own = quality + rng.normal(0, 0.005)
                    accuracy = 0.6 + own + rng.normal(0, 0.004)
                    shared = link * (1 - u / 8) * 4 * own
                    models.append(_model(keys, 1, accuracy, rng))
                    pairs += _pairs(keys, (0.9 - 0.01 * phi_depth) * POSTERIORS[u] + shared, noise, rng)
            models += [_model(_keys(u, phi_depth, 1, base), 0, 0.6, rng) for base in seeds]
    return EmergenceTables(folder, pl.DataFrame(models), pl.DataFrame(pairs), oracles())


def _keys(u: int, phi_depth: int, depth: int, base: int) -> dict[str, Any]:
    return dict(zip(MODEL, ("released", 12, "leaky_relu", u, phi_depth, depth, base), strict=True))


def _model(keys: dict[str, Any], modality: int, accuracy: float, rng: np.random.Generator) -> dict[str, Any]:
    return {**keys, "modality": modality, "accuracy": accuracy, "bayes_accuracy": 0.7, "cross_entropy": 1.0,
            "test_accuracy": accuracy + rng.normal(0, 0.005), "steps": 6_000}  # fmt: skip


def _pairs(keys: dict[str, Any], level: float, noise: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for layer in range(1, keys["depth"] + 1):
        exact = float(np.clip(level - 0.02 * abs(layer - keys["depth"]), 0.0, 1.0))
        estimate = exact + rng.normal(0, noise)
        values = (max(0.0, estimate), estimate, 0.2 + 0.3 * exact + rng.normal(0, noise / 4), exact)
        for metric, value in zip(METRICS, values, strict=True):
            rows.append(
                {**keys, "metric": metric, "layer0": 1, "layer1": layer, "value": float(value),
                 "n": None if metric == "cka_population" else 512, "k": 100 if metric == "mutual_knn" else None}
            )  # fmt: skip
    return rows


def write(tables: EmergenceTables) -> Path:
    """Writes the tables where they lie; returns the folder."""
    tables.folder.mkdir(parents=True, exist_ok=True)
    for name in ("models", "alignment", "oracles"):
        getattr(tables, name).write_parquet(tables.folder / f"{name}.parquet")
    return tables.folder
