"""Encoders of two synthetic modalities trained apart: accuracy of each, and alignment of every pair of layers."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.data.synthetic.generator import Generator, Modalities, Part, modalities
from featcache.errors import UsageError
from featcache.metrics.sweeps.released_layers import released_layer, released_scores, unit_rows
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.pool import OnProgress, OnShare, Work, block_weights, run_blocks
from featcache.studies.emergence.synthetic.population import exact_accuracy, label_given, population_cka
from featcache.studies.emergence.synthetic.profiles import BATCH, REFERENCE_DEPTH, Profile, released_rates

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from featcache.trainer.ensembles.fit import Fitted
    from featcache.trainer.ensembles.mlp import Activation, MlpEnsemble, Shape

ROWS = 512  # test rows that alignment is estimated from, the first ones, as released
K = 100  # neighbours of mutual_knn, as released


@dataclass(frozen=True)
class Block:
    """Encoders of one modality, depth and seed: one a level and map of the second modality, trained as one ensemble.

    Args:
        generator: Of the modalities.
        levels: Of the label tables.
        phi_depths: Maps of the second modality.
        modality: 0 or 1.
        depth: Hidden layers.
        seed: The base seed.
        steps: Of the optimiser.
        width: Of the hidden layers.
        activation: Of the hidden layers.
        reference: Of the second modality, the block of the first one that its encoders are compared with.
    """

    generator: Generator
    levels: tuple[int, ...]
    phi_depths: tuple[int, ...]
    modality: int
    depth: int
    seed: int
    steps: int
    width: int
    activation: "Activation"
    reference: "Block | None" = None

    @property
    def name(self) -> str:
        """A folder name that two blocks share only if they train the same."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"modality{self.modality}-depth{self.depth}-seed{self.seed}-{digest}"

    @property
    def members(self) -> list[tuple[int, int]]:
        """Level and depth of the map of each encoder."""
        return [(level, phi_depth) for level in self.levels for phi_depth in self.phi_depths]


@dataclass(frozen=True, eq=False)
class EmergenceTables:
    """The tables of the study.

    Args:
        folder: Where they lie.
        models: One row an encoder.
        alignment: One row an encoder of the second modality, pair of layers and metric.
        oracles: One row a level.
    """

    folder: Path
    models: "pl.DataFrame"
    alignment: "pl.DataFrame"
    oracles: "pl.DataFrame"


def run_encoders(
    generator: Generator,
    profile: Profile,
    folder: Path,
    *,
    levels: Sequence[int] | None = None,
    processes: int | None = 1,
    on_progress: OnProgress | None = None,
) -> EmergenceTables:
    """Trains every encoder of a profile and measures it; blocks that are there are not computed again.

    Args:
        generator: Of the modalities.
        profile: Depths, maps, seeds and steps.
        folder: Gets models.parquet, alignment.parquet, oracles.parquet, and blocks/ with weights and rows of each.
        levels: Of the label tables; None: all.
        processes: At a time, of one thread each; 0 trains in this process.
        on_progress: Called with the share that is done.

    Raises:
        UsageError: If a level is not one of the generator.
        OutputFailed: If the folder cannot be written.
    """
    wanted = tuple(generator.levels if levels is None else levels)
    unknown = [level for level in wanted if level not in generator.levels]
    if unknown or not wanted:
        raise UsageError(f"{generator.name} has no level {unknown}: there are {list(generator.levels)}")
    blocks = plan(generator, profile, wanted)
    work = Work(run_block, lambda block: block.name, _cost)
    total, done = sum(map(_cost, blocks)), 0.0
    for modality in (0, 1):  # the second is compared with the first
        part = [block for block in blocks if block.modality == modality]
        share = sum(map(_cost, part)) / total
        run_blocks(work, part, folder, processes, _part_of(on_progress, done, share))
        done += share
    return _gathered(generator, wanted, blocks, folder)


def plan(generator: Generator, profile: Profile, levels: Sequence[int]) -> list[Block]:
    """The blocks of a profile: for each seed that of the first modality, and those of the second by depth."""
    blocks: list[Block] = []
    for seed in profile.seeds:
        first = Block(
            generator, tuple(levels), profile.phi_depths, 0, REFERENCE_DEPTH, seed, profile.steps1, profile.width,
            profile.activation,
        )  # fmt: skip
        second = [replace(first, modality=1, depth=d, steps=profile.steps2, reference=first) for d in profile.depths]
        blocks += [first, *second]
    return blocks


def run_block(block: Block, folder: Path, on_share: OnShare) -> None:
    """Trains the encoders of a block, measures them, and writes weights and rows; nothing where they are there.

    Args:
        block: Of the second modality only where that of the first, of its seed, is there.
        folder: Of the study.
        on_share: Called with the share done.
    """
    place = folder / "blocks" / block.name
    if (place / "block.json").is_file():
        return on_share(1.0)
    from safetensors.torch import save

    sets = _sets(block.generator, block.levels, block.phi_depths)
    fitted = _train(block, sets, on_share)
    ensemble = fitted.ensemble
    rows = [
        {**_keys(block, level, phi_depth), "modality": block.modality, **scores}
        for (level, phi_depth), scores in zip(block.members, _model_scores(block, sets, fitted), strict=True)
    ]
    write_output(place / "models.parquet", parquet_bytes(_frame(rows)))
    if block.modality == 1:
        write_output(place / "alignment.parquet", parquet_bytes(_frame(_alignment(block, sets, ensemble, folder))))
    write_output(place / "weights.safetensors", save({"parameters": ensemble.flat.values.detach().contiguous()}))
    write_output(place / "block.json", (json.dumps(_described(block), indent=1) + "\n").encode())
    on_share(1.0)


def load_ensemble(block: Block, folder: Path) -> "MlpEnsemble":
    """The encoders of a block that was trained, one a member of it.

    Raises:
        UsageError: If it was not trained.
    """
    from featcache.trainer.ensembles.mlp import MlpEnsemble

    values = block_weights(folder, block.name, f"featcache emergence synthetic --out {folder}")
    return MlpEnsemble(_shape(block), values)


def _cost(block: Block) -> float:
    return block.steps * (block.depth + 2.0)


def _part_of(on_progress: OnProgress | None, start: float, share: float) -> OnProgress | None:
    """The progress of all from that of a part which begins at `start` and is `share` of it."""
    return on_progress and (lambda done, name: on_progress(start + share * done, name))


def _described(block: Block) -> dict[str, Any]:
    return {**asdict(block), "generator": repr(block.generator), "batch": BATCH}


def _shape(block: Block) -> "Shape":
    from featcache.trainer.ensembles.mlp import Shape

    inputs = block.generator.shared + block.generator.unique
    return Shape(inputs, block.width, block.depth, block.generator.classes, block.activation)


@lru_cache(maxsize=1)
def _sets(
    generator: Generator, levels: tuple[int, ...], phi_depths: tuple[int, ...]
) -> Mapping[tuple[int, int], Modalities]:
    return {(level, data.phi_depth): data for level in levels for data in modalities(generator, level, phi_depths)}


def _train(block: Block, sets: Mapping[tuple[int, int], Modalities], on_share: OnShare) -> "Fitted":
    import torch

    from featcache.trainer.ensembles.fit import FitSettings, Rows, fit_classifiers
    from featcache.trainer.ensembles.mlp import Shape, initial_mlps

    shape = _shape(block)
    first = Shape(shape.inputs, shape.width, block.depth, shape.outputs, shape.activation)
    seeds = [block.seed + phi_depth + block.depth for _, phi_depth in block.members]
    ensemble = initial_mlps(shape, seeds, after=first if block.modality else None)
    parts = {
        split: [
            (_x(sets[member].parts[split], block.modality), sets[member].parts[split].labels)
            for member in block.members
        ]
        for split in ("train", "valid")
    }
    stacked = {
        split: Rows(
            torch.from_numpy(np.stack([x for x, _ in pairs], axis=1)),
            torch.from_numpy(np.stack([labels for _, labels in pairs], axis=1)),
        )
        for split, pairs in parts.items()
    }
    rates = [released_rates(block.modality, level) for level, _ in block.members]
    return fit_classifiers(
        ensemble, rates, stacked["train"], stacked["valid"], FitSettings(block.steps, BATCH, block.seed),
        lambda step, total: on_share(0.97 * step / total),
    )  # fmt: skip


def _x(part: Part, modality: int) -> np.ndarray:
    return part.x1 if modality == 0 else part.x2


def _stacked(values: Iterator[np.ndarray]) -> "Tensor":
    """[members, d, rows] of one array [rows, d] a member."""
    import torch

    return torch.from_numpy(np.stack([rows.T for rows in values]).astype(np.float32))


def _model_scores(
    block: Block, sets: Mapping[tuple[int, int], Modalities], fitted: "Fitted"
) -> Iterator[dict[str, Any]]:
    import torch

    every = [sets[member] for member in block.members]
    with torch.no_grad():
        inputs = _stacked(data.inputs1 if block.modality == 0 else data.inputs2 for data in every)
        logits = fitted.ensemble(inputs).double().log_softmax(dim=1).numpy()  # [members, classes, inputs]
    for number, (data, (level, _)) in enumerate(zip(every, block.members, strict=True)):
        label, test = label_given(data.table, block.modality), data.parts["test"]
        chosen_class = logits[number].argmax(axis=0)
        codes = test.codes1 if block.modality == 0 else test.codes2
        rates = released_rates(block.modality, level)
        yield {
            "learning_rate": rates.learning_rate,
            "weight_decay": rates.weight_decay,
            "steps": block.steps,
            "best_step": int(fitted.step[number]),
            "valid_accuracy": float(fitted.accuracy[number]),
            "test_accuracy": float(np.mean(chosen_class[codes] == test.labels)),
            "accuracy": exact_accuracy(label, chosen_class),
            "bayes_accuracy": float(label.max(axis=1).mean()),
            "cross_entropy": float(-np.sum(label * logits[number].T) / len(label)),
        }


def _first_hidden(
    block: Block, sets: Mapping[tuple[int, int], Modalities], folder: Path
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The last hidden layer of the first modality's encoder of each member: of the test rows, and of every input."""
    import torch

    assert block.reference is not None  # of a block of the second modality
    ensemble, every = load_ensemble(block.reference, folder), [sets[member] for member in block.members]
    with torch.no_grad():
        rows = ensemble.hidden(_stacked(data.parts["test"].x1[:ROWS] for data in every))[-1].numpy()
        inputs = ensemble.hidden(_stacked(data.inputs1 for data in every))[-1].numpy()
    return [one.T for one in rows], [one.T for one in inputs]


def _alignment(
    block: Block, sets: Mapping[tuple[int, int], Modalities], ensemble: "MlpEnsemble", folder: Path
) -> Iterator[dict[str, Any]]:
    """Rows of every member and layer: its alignment with the encoder of the first modality by each metric."""
    import torch

    every = [sets[member] for member in block.members]
    rows1, inputs1 = _first_hidden(block, sets, folder)
    with torch.no_grad():
        layers = ensemble.hidden(_stacked(data.parts["test"].x2[:ROWS] for data in every))
        inputs = ensemble.hidden(_stacked(data.inputs2 for data in every))
    for number, (level, phi_depth) in enumerate(block.members):
        reference = released_layer(rows1[number], k=K)
        for layer, (rows2, inputs2) in enumerate(zip(layers, inputs, strict=True), start=1):
            scores = released_scores(reference, released_layer(rows2[number].numpy().T, k=K)) | {
                "cka_population": population_cka(
                    unit_rows(inputs1[number]), unit_rows(inputs2[number].numpy().T), block.generator.shared
                )
            }
            for metric, value in scores.items():
                exact = metric == "cka_population"
                yield {
                    **_keys(block, level, phi_depth),
                    "metric": metric,
                    "layer0": REFERENCE_DEPTH,
                    "layer1": layer,
                    "value": value,
                    "n": None if exact else len(rows1[number]),
                    "k": K if metric == "mutual_knn" else None,
                }


def _keys(block: Block, level: int, phi_depth: int) -> dict[str, Any]:
    return {
        "generator": block.generator.name,
        "uniqueness": level,
        "phi_depth": phi_depth,
        "depth": block.depth,
        "width": block.width,
        "architecture": block.activation,
        "seed": block.seed,
    }


def _frame(rows: Iterable[dict[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)


def _gathered(generator: Generator, levels: Sequence[int], blocks: Sequence[Block], folder: Path) -> EmergenceTables:
    import polars as pl

    from featcache.studies.emergence.synthetic.oracles import oracle_row

    def table(name: str, of: Sequence[Block]) -> "pl.DataFrame":
        frames = [pl.read_parquet(folder / "blocks" / block.name / f"{name}.parquet") for block in of]
        return pl.concat(frames, how="vertical_relaxed")

    tables = EmergenceTables(
        folder,
        table("models", blocks),
        table("alignment", [block for block in blocks if block.modality == 1]),
        _frame(oracle_row(generator, level) for level in levels),
    )
    for name in ("models", "alignment", "oracles"):
        write_output(folder / f"{name}.parquet", parquet_bytes(getattr(tables, name)))
    return tables
