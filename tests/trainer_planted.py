"""Small features with a known common signal, for the trainer's tests."""

import numpy as np

from featcache.features import Features

OVERLAY = "0" * 64


def features(role, values, groups, splits, labels=None, ids=None, **changes):
    values = np.asarray(values, np.float32)
    given = {
        "values": values,
        "ids": np.array(groups if ids is None else ids, dtype=object),
        "groups": np.array(groups, dtype=object),
        "splits": np.array(splits, dtype=object),
        "labels": {} if labels is None else {"kind": np.array(labels, dtype=object)},
        "dataset": "planted",
        "view": {"x": "images", "y": "captions", "reference": "images"}[role],
        "encoder": f"encoder-{role}",
        "layer": "last.mean",
        "digest": f"d-{role}",
        "root": f"r-{role}",
        "overlay": OVERLAY,
    }
    return Features(**{**given, **changes})


def planted(n=240, captions=3, *, shared=6, noise=0.2, seed=0, validation=True):
    """x, y and reference that see the same latent; y has several rows a group; half train, a quarter each held out."""
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
    x = features("x", see(latent, 20), groups, splits, labels)
    y = features(
        "y", see(latent.repeat(captions, axis=0), 12), repeated(groups), repeated(splits), repeated(labels), ids
    )
    return x, y, features("reference", see(latent, 16), groups, splits, labels)
