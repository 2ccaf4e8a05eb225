"""Zero-shot classification by prompts: of a run's adapted image sides, through the adapter of the prompts' side."""

from dataclasses import replace

import numpy as np

from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import class_codes
from featcache.metrics.probes.accuracy_rows import Predictions
from featcache.metrics.probes.zero_shot import class_vectors, zero_shot_classes
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.sources import LabelRule, RunOnData
from featcache.trainer.run import apply


def zero_shot(run: RunOnData, groups: TaskGroups, rule: LabelRule) -> tuple[list[Predictions], list[str]]:
    """Adapted image sides against class vectors of prompts through their side's adapter, trained and untrained."""
    said, notes, named = list[Predictions](), list[str](), set(groups.names.tolist())
    images = {side: each for side, each in run.sides.items() if each.modality == "image" and not rule.forbids(each)}
    prompts = {
        side: each
        for side, each in run.sides.items()
        if each.modality == "text" and rule.forbids(each) and not named & set(each.groups.tolist())
    }
    for side, features in prompts.items():
        labels = features.labels[rule.label] if rule.label in features.labels else np.full(len(features), "")
        codes = class_codes(labels, groups.classes)
        known = codes < len(groups.classes)
        lacking = len(groups.classes) - len(np.unique(codes[known]))
        if lacking:
            notes.append(f"no zero-shot by {side}: {lacking} of {len(groups.classes)} classes have no prompt")
            continue
        for stage, adapters in run.weights().items():
            vectors = class_vectors(apply(run.run, features, side=side, adapters=adapters)[known], codes[known])
            for image, source in images.items():
                rows = groups.means(source, apply(run.run, source, side=image, adapters=adapters))
                space = f"adapted {image}" if stage == "trained" else f"untrained {image}"
                row = Row(run.titled(space), f"label {rule.label}", "zero_shot", None, stage=stage, split="test")
                how = f"{len(vectors)} mean vectors of {np.count_nonzero(known)} prompts by {side}, cosine"
                row = replace(row, convention=how, d=vectors.shape[1], d_against=vectors.shape[1])
                said.append(Predictions(row, zero_shot_classes(rows[groups.rows["test"]], vectors)))
    return said, notes
