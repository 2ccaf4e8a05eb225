"""Small features with a known common signal, for the trainer's tests."""

import numpy as np

from featcache.features import Features

OVERLAY = "0" * 64
VIEWS = {"x": "images", "y": "captions", "z": "names-de", "reference": "images"}


def features(role, values, groups, splits, labels=None, ids=None, **changes):
    values = np.asarray(values, np.float32)
    given = {
        "values": values,
        "ids": np.array(groups if ids is None else ids, dtype=object),
        "groups": np.array(groups, dtype=object),
        "splits": np.array(splits, dtype=object),
        "labels": {} if labels is None else {"kind": np.array(labels, dtype=object)},
        "dataset": "planted",
        "view": VIEWS[role],
        "encoder": f"encoder-{role}",
        "layer": "last.mean",
        "digest": f"d-{role}",
        "root": f"r-{role}",
        "overlay": OVERLAY,
    }
    return Features(**{**given, **changes})


def planted(n=240, captions=3, *, shared=6, noise=0.2, seed=0, validation=True):
    """x, y and reference that see the same latent; y has several rows a group; half train, a quarter each held out."""
    sides, reference = planted_sides(n, captions, shared=shared, noise=noise, seed=seed, validation=validation)
    return *sides.values(), reference


def planted_sides(n=240, captions=3, *, third=False, shared=6, noise=0.2, seed=0, validation=True):
    """As `planted`, sides by name; a third one, z, has one row a group."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, shared))
    groups = [f"g{i:04d}" for i in range(n)]
    names = ["train", "train", "validation" if validation else "train", "test"]
    splits = [names[i % 4] for i in range(n)]
    labels = ["odd" if i % 2 else "even" for i in range(n)]

    def see(z, d):
        return z @ rng.normal(size=(shared, d)) + noise * rng.normal(size=(len(z), d)) + 3.0

    def repeated(column):
        return [entry for entry in column for _ in range(captions)]

    ids = [f"{group}#{i}" for group in groups for i in range(captions)]
    sides = {"x": features("x", see(latent, 20), groups, splits, labels)}
    rows = see(latent.repeat(captions, axis=0), 12)
    sides["y"] = features("y", rows, repeated(groups), repeated(splits), repeated(labels), ids)
    reference = features("reference", see(latent, 16), groups, splits, labels)
    if third:
        sides["z"] = features("z", see(latent, 9), groups, splits, labels)
    return sides, reference


def without(features, groups):
    """The rows of all but some groups."""
    return features.take(~np.isin(features.groups.astype(str), list(groups)))
