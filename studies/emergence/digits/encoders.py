"""Encoders of digit images and of spoken digits trained apart, as the label moves from the digit to the speaker."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.data.spoken_digits import column_name, label_table
from featcache.errors import UsageError
from featcache.metrics.sweeps.released_layers import ReleasedLayer, released_layer, released_scores
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.digits.dial import correlations, dial_table
from featcache.studies.emergence.digits.pairs import digit_pairs
from featcache.studies.emergence.pool import OnProgress, OnShare, Work, block_weights, run_blocks

if TYPE_CHECKING:
    import polars as pl

    from featcache.trainer.ensembles.fit import Rows
    from featcache.trainer.ensembles.mlp import Activation, MlpEnsemble, Shape

REFERENCE_DEPTH = 1  # hidden layers of the image encoders that all speech encoders are compared with


@dataclass(frozen=True)
class SpokenDigitsSettings:
    """What is trained and measured.

    Args:
        depths: Hidden layers of the encoders of both modalities.
        seeds: Each draws pairs, the order in which speakers are named, and initial values of its own.
        steps: Of the optimiser.
        batch: Rows a step.
        width: Of the hidden layers.
        activation: Of the hidden layers.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        k: Neighbours of mutual_knn.
    """

    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    batch: int = 128
    width: int = 32
    activation: "Activation" = "leaky_relu"
    learning_rate: float = 0.005
    weight_decay: float = 0.01
    k: int = 10

    def __post_init__(self) -> None:
        if not self.depths or not self.seeds or len({*self.depths}) < len(self.depths) or min(self.depths) < 1:
            raise UsageError(f"depths {self.depths} and seeds {self.seeds}: wanted one or more, each depth once")


@dataclass(frozen=True, eq=False)
class SpokenDigitsTables:
    """The tables of the study.

    Args:
        folder: Where they lie.
        models: One row an encoder.
        alignment: One row a speech encoder, its layer and a metric; stage "initial" is before training, whatever the
            label.
        dial: One row a position of the dial, as `featcache.studies.emergence.digits.dial.dial_table`.
        correlations: As `featcache.studies.emergence.digit_dial.correlations`.
    """

    folder: Path
    models: "pl.DataFrame"
    alignment: "pl.DataFrame"
    dial: "pl.DataFrame"
    correlations: "pl.DataFrame"


@dataclass(frozen=True)
class Block:
    """Encoders of one modality and depth, one a seed and position of the dial, trained as one ensemble.

    Args:
        root: The folder of the clips.
        rows: Roots of both views' rows, by seed: what the clips and images hold.
        speakers: All of them.
        settings: Of the study.
        modality: 0 for images, 1 for speech.
        depth: Hidden layers.
    """

    root: Path
    rows: tuple[tuple[str, str], ...]
    speakers: int
    settings: SpokenDigitsSettings
    modality: int
    depth: int

    @property
    def name(self) -> str:
        """A folder name that two blocks share only if they train the same on the same content."""
        shared = asdict(self.settings) | {"depths": None, "speakers": self.speakers, "rows": self.rows}
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
        return f"modality{self.modality}-depth{self.depth}-{digest}"

    @property
    def members(self) -> list[tuple[int, int]]:
        """Seed and number of named speakers of each encoder."""
        return [(seed, named) for seed in self.settings.seeds for named in range(self.speakers + 1)]

    @property
    def shape(self) -> "Shape":
        """Of every encoder: outputs for as many labels as any position of the dial has."""
        from featcache.trainer.ensembles.mlp import Shape

        settings = self.settings
        inputs = digit_pairs(self.root, settings.seeds[0]).inputs[self.modality].shape[1]
        classes = max(label_table(named, self.speakers).shape[2] for named in range(self.speakers + 1))
        return Shape(inputs, settings.width, self.depth, classes, settings.activation)


def run_spoken_digits(
    root: Path,
    folder: Path,
    settings: SpokenDigitsSettings | None = None,
    *,
    processes: int | None = 0,
    on_progress: OnProgress | None = None,
) -> SpokenDigitsTables:
    """Trains encoders of both modalities at every position of the dial and measures them; what is there is kept.

    Args:
        root: The folder of the clips, as for `featcache.data.spoken_digits.open_spoken_digits`.
        folder: Gets models.parquet, alignment.parquet, dial.parquet, correlations.parquet, and blocks/ with weights and
            rows of each block.
        settings: None for the defaults.
        processes: At a time, of one thread each; 0 trains in this process; None: one a core.
        on_progress: Called with the share that is done.

    Raises:
        DataMissing, DataInvalid: As `open_spoken_digits`, and for a clip that cannot be read.
        MetricError: If there are fewer test rows than the neighbours ask for.
        OutputFailed: If the folder cannot be written.
    """
    chosen_settings = settings or SpokenDigitsSettings()
    if on_progress:
        on_progress(0.0, "")  # reading takes some seconds
    data = [digit_pairs(root, seed) for seed in chosen_settings.seeds]
    speakers = data[0].speakers
    rows = tuple(pairs.roots for pairs in data)
    every = [
        [Block(root, rows, speakers, chosen_settings, modality, depth) for depth in depths]
        for modality, depths in enumerate(({REFERENCE_DEPTH, *chosen_settings.depths}, chosen_settings.depths))
    ]
    work = Work(run_block, lambda block: block.name, _cost)
    total = sum(_cost(block) for blocks in every for block in blocks)
    before = 0.0
    for blocks in every:  # the speech encoders are compared with trained image encoders
        own = sum(map(_cost, blocks))

        def forward(done: float, name: str, own: float = own, before: float = before) -> None:
            if on_progress:
                on_progress((before + own * done) / total, name)

        run_blocks(work, blocks, folder, processes, forward)
        before += own
    return _gathered([block for blocks in every for block in blocks], folder)


def _rows(block: Block, split: str) -> "Rows":
    """The rows of one split, of every member."""
    import torch

    from featcache.trainer.ensembles.fit import Rows

    data = [(digit_pairs(block.root, seed), named) for seed, named in block.members]
    inputs = [pairs.inputs[block.modality][pairs.splits == split] for pairs, _ in data]
    labels = [pairs.labels[named][pairs.splits == split] for pairs, named in data]
    return Rows(torch.from_numpy(np.stack(inputs, axis=1)), torch.from_numpy(np.stack(labels, axis=1)))


# -- training and measuring --------------------------------------------------------------------------------------------


def run_block(block: Block, folder: Path, on_share: OnShare) -> None:
    """Trains the encoders of a block, measures them, and writes weights and rows; nothing where they are there.

    Args:
        block: Of speech only where the image encoders of REFERENCE_DEPTH are there.
        folder: Of the study.
        on_share: Called with the share done.
    """
    place = folder / "blocks" / block.name
    if (place / "block.json").is_file():
        return on_share(1.0)
    from safetensors.torch import save

    from featcache.trainer.ensembles.fit import FitSettings, fit_classifiers
    from featcache.trainer.ensembles.flat import Rates

    settings = block.settings
    rates = [Rates(settings.learning_rate, settings.weight_decay)] * len(block.members)
    fitted = fit_classifiers(
        _initial(block), rates, _rows(block, "train"), _rows(block, "validation"),
        FitSettings(settings.steps, settings.batch, block.depth), lambda step, total: on_share(0.95 * step / total),
    )  # fmt: skip
    write_output(place / "models.parquet", parquet_bytes(_frame(_model_rows(block, fitted))))
    if block.modality == 1:
        rows = _alignment_rows(block, fitted.ensemble, folder)
        write_output(place / "alignment.parquet", parquet_bytes(_frame(rows)))
    write_output(place / "weights.safetensors", save({"parameters": fitted.ensemble.flat.values.detach().contiguous()}))
    described = asdict(settings) | {"modality": block.modality, "depth": block.depth, "rows": block.rows}
    write_output(place / "block.json", (json.dumps(described, indent=1) + "\n").encode())
    on_share(1.0)


def _initial(block: Block) -> "MlpEnsemble":
    """Encoders before training: those of one seed are equal at every position of the dial."""
    from featcache.trainer.ensembles.mlp import initial_mlps

    return initial_mlps(block.shape, [1_000 * seed + 100 * block.modality + block.depth for seed, _ in block.members])


def _model_rows(block: Block, fitted: Any) -> Iterator[dict[str, Any]]:
    import torch

    from featcache.trainer.ensembles.fit import columns

    test, settings = _rows(block, "test"), block.settings
    with torch.no_grad():
        logits = fitted.ensemble(columns(test.x)).double().log_softmax(dim=1).numpy()  # [members, labels, rows]
    for number, (seed, named) in enumerate(block.members):
        pairs, labels = digit_pairs(block.root, seed), test.labels[:, number].numpy()
        given = pairs.given(block.modality, named)
        best = given.max(axis=1).mean()
        given = given[pairs.splits == "test"]
        answers = logits[number].argmax(axis=0)
        known = answers < given.shape[1]  # an output that no label of this position has is never right
        yield {
            **_keys(block, seed, named),
            "modality": block.modality,
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "steps": settings.steps,
            "best_step": int(fitted.step[number]),
            "valid_accuracy": float(fitted.accuracy[number]),
            "test_accuracy": float(np.mean(answers == labels)),
            "accuracy": float(np.mean(np.where(known, given[np.arange(len(given)), answers * known], 0))),
            "bayes_accuracy": float(best),
            "cross_entropy": float(-logits[number][labels, np.arange(len(labels))].mean()),
        }


def _alignment_rows(block: Block, trained: "MlpEnsemble", folder: Path) -> Iterator[dict[str, Any]]:
    """Every layer of each speech encoder against the image encoder of its seed and position, on the test rows."""
    images = Block(block.root, block.rows, block.speakers, block.settings, 0, REFERENCE_DEPTH)
    stages = {"trained": (load_ensemble(images, folder), trained), "initial": (_initial(images), _initial(block))}
    for stage, (image_encoders, speech_encoders) in stages.items():
        references, layers = _hidden(images, image_encoders)[-1], _hidden(block, speech_encoders)
        for number, (seed, named) in enumerate(block.members):
            if stage == "initial" and named:
                continue  # equal to that of the first position
            for layer, values in enumerate(layers, start=1):
                for metric, value in released_scores(references[number], values[number]).items():
                    yield {
                        **_keys(block, seed, named if stage == "trained" else None),
                        "stage": stage,
                        "metric": metric,
                        "layer0": REFERENCE_DEPTH,
                        "layer1": layer,
                        "value": value,
                        "n": references[number].rows,
                        "k": block.settings.k if metric == "mutual_knn" else None,
                    }


def load_ensemble(block: Block, folder: Path) -> "MlpEnsemble":
    """The encoders of a block that was trained.

    Raises:
        UsageError: If it was not trained.
    """
    from featcache.trainer.ensembles.mlp import MlpEnsemble

    values = block_weights(folder, block.name, "featcache emergence spoken-digits --root DIR")
    return MlpEnsemble(block.shape, values)


def _hidden(block: Block, ensemble: "MlpEnsemble") -> list[list[ReleasedLayer]]:
    """Every hidden layer and member, of the test rows."""
    import torch

    from featcache.trainer.ensembles.fit import columns

    with torch.no_grad():
        layers = ensemble.hidden(columns(_rows(block, "test").x))
    return [[released_layer(values.T.double().numpy(), k=block.settings.k) for values in layer] for layer in layers]


def _keys(block: Block, seed: int, named: int | None) -> dict[str, Any]:
    """What tells an encoder apart; None stands for no label."""
    return {
        "label": "" if named is None else column_name(named, block.speakers),
        "named": named,
        "share": None if named is None else named / block.speakers,
        "depth": block.depth,
        "width": block.settings.width,
        "architecture": block.settings.activation,
        "seed": seed,
    }


def _gathered(blocks: Sequence[Block], folder: Path) -> SpokenDigitsTables:
    import polars as pl

    def table(name: str, of: Iterable[Block]) -> "pl.DataFrame":
        frames = [pl.read_parquet(folder / "blocks" / block.name / f"{name}.parquet") for block in of]
        return pl.concat(frames, how="vertical_relaxed")

    models = table("models", blocks)
    alignment = table("alignment", (block for block in blocks if block.modality == 1))
    dial = dial_table(models, alignment, blocks[0].speakers)
    tables = SpokenDigitsTables(folder, models, alignment, dial, correlations(models, alignment, dial))
    for name in ("models", "alignment", "dial", "correlations"):
        write_output(folder / f"{name}.parquet", parquet_bytes(getattr(tables, name)))
    return tables


def _cost(block: Block) -> float:
    return block.settings.steps * (block.depth + 2.0 + 2.0 * block.modality)


def _frame(rows: Iterable[Mapping[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)
