"""Transformer encoders of one modality of MultiBench, trained by depth as ensembles over seeds and kept in blocks."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from featcache.data.multibench import MultiBench, Split, load_multibench
from featcache.provenance import provenance
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.emergence.multibench.protocol import MultiBenchSettings, protocol_of
from featcache.studies.emergence.pool import OnShare, block_weights

if TYPE_CHECKING:
    from featcache.trainer.ensembles.flat import Rates
    from featcache.trainer.ensembles.sequences import FittedSequences, SequenceRows
    from featcache.trainer.ensembles.transformer import TransformerEnsemble, TransformerShape

_TRAINING = 0.97  # share of a block's time


@dataclass(frozen=True)
class Block:
    """Encoders of one modality and depth, one a seed, trained as one ensemble.

    Args:
        name: Of the data set, a key of PUBLISHED.
        root: Where its files lie.
        digest: Of what this modality and the labels hold, as loaded.
        settings: Of the study.
        modality: Of the encoders.
        depth: Encoder layers.
    """

    name: str
    root: Path
    digest: str
    settings: MultiBenchSettings
    modality: str
    depth: int

    @property
    def folder(self) -> str:
        """A folder name that two blocks share only if they train the same on the same content."""
        settings = self.settings
        shared = {
            "data": self.digest, "seeds": settings.seeds, "epochs": self.epochs, "batch": settings.batch,
            "dropout": settings.dropout, "rates": asdict(self.rates), "pool": protocol_of(self.name).pool,
        }  # fmt: skip
        digest = blake3(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.modality}-depth{self.depth}-{digest}"

    @property
    def epochs(self) -> int:
        """Passes over the training rows."""
        return self.settings.epochs or protocol_of(self.name).epochs

    @property
    def rates(self) -> "Rates":
        """Of every member."""
        return protocol_of(self.name).rates[self.modality]

    @property
    def seeds(self) -> list[int]:
        """Of every member: its initial values, its order of rows, its dropout."""
        place = [*protocol_of(self.name).rates].index(self.modality)
        return [base + 1 + self.depth + 1_000 * place for base in self.settings.seeds]


@lru_cache(maxsize=1)
def open_data(name: str, root: Path, validation_rows: int) -> MultiBench:
    """A data set, kept in memory; errors as `load_multibench`."""
    return load_multibench(name, root, validation_rows=validation_rows)


def data_digest(data: MultiBench, modality: str) -> str:
    """blake3 of one modality's sequences and the targets, over all splits."""
    digest = blake3()
    for split in ("train", "validation", "test"):
        part = data.splits[split]
        rows = part.sequences[modality]
        for array in (rows.values, rows.padding, part.targets):
            if array is not None:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def shape_of(block: Block, data: MultiBench) -> "TransformerShape":
    """The shape of a block's encoders: as wide as a step of the modality."""
    from featcache.trainer.ensembles.transformer import TransformerShape

    values = data.splits["train"].sequences[block.modality].values
    width = values.shape[2]
    return TransformerShape(
        width, width, block.depth, values.shape[1], data.published.classes, protocol_of(block.name).pool
    )


def cost(block: Block) -> float:
    """Of training a block, in a unit of its own."""
    width = block_width(block)
    return block.epochs * block.depth * width * (width + 50.0)


def block_width(block: Block) -> int:
    """Numbers a step of the modality."""
    from featcache.data.multibench import PUBLISHED

    return PUBLISHED[block.name].widths[block.modality]


def run_block(block: Block, folder: Path, on_share: OnShare) -> None:
    """Trains the encoders of a block and measures their performance; nothing where that is done.

    Args:
        block: What is trained.
        folder: Of the study; gets blocks/FOLDER with weights.safetensors, models.parquet and block.json.
        on_share: Called with the share done.
    """
    place = folder / "blocks" / block.folder
    if (place / "block.json").is_file():
        return on_share(1.0)
    import polars as pl
    from safetensors.torch import save

    data = open_data(block.name, block.root, block.settings.validation_rows)
    fitted = _fit(block, data, on_share)
    frame = pl.DataFrame(_rows(block, data, fitted), infer_schema_length=None)
    write_output(place / "models.parquet", parquet_bytes(frame))
    values = fitted.ensemble.flat.values.detach().cpu().contiguous()
    write_output(place / "weights.safetensors", save({"parameters": values}))
    described = {**asdict(block), "root": str(block.root), "seeds": block.seeds, "rates": asdict(block.rates)}
    write_output(place / "block.json", (json.dumps(described | provenance(), indent=1) + "\n").encode())
    on_share(1.0)


def load_ensemble(block: Block, folder: Path) -> "TransformerEnsemble":
    """The encoders of a block that was trained, one a seed, on the device of the settings.

    Raises:
        UsageError: If it was not trained.
    """
    from featcache.trainer.ensembles.transformer import TransformerEnsemble

    values = block_weights(folder, block.folder, f"featcache emergence multibench {block.name} --root DIR")
    data = open_data(block.name, block.root, block.settings.validation_rows)
    return TransformerEnsemble(shape_of(block, data), values.to(block.settings.device))


def sequence_rows(split: Split, modality: str, device: str, *, most: int | None = None) -> "SequenceRows":
    """The rows of one modality as an ensemble is trained or measured on them, the first `most` of them."""
    import torch

    from featcache.trainer.ensembles.sequences import SequenceRows

    rows = split.sequences[modality]
    padding = None if rows.padding is None else torch.from_numpy(rows.padding[:most]).to(device)
    targets = torch.from_numpy(split.targets[:most]).to(device)
    return SequenceRows(torch.from_numpy(rows.values[:most]).to(device), padding, targets)


def _fit(block: Block, data: MultiBench, on_share: OnShare) -> "FittedSequences":
    from featcache.trainer.ensembles.sequences import SequenceSettings, fit_sequences
    from featcache.trainer.ensembles.transformer import TransformerEnsemble, initial_transformers

    settings, shape = block.settings, shape_of(block, data)
    ensemble = initial_transformers(shape, block.seeds)
    if settings.device != "cpu":
        ensemble = TransformerEnsemble(shape, ensemble.flat.values.to(settings.device))
    train, valid = (
        sequence_rows(data.splits[split], block.modality, settings.device) for split in ("train", "validation")
    )
    return fit_sequences(
        ensemble, [block.rates] * len(block.seeds), block.seeds, (train, valid),
        SequenceSettings(data.published.task, block.epochs, settings.batch, settings.dropout),
        lambda epoch, epochs: on_share(_TRAINING * epoch / epochs),
    )  # fmt: skip


def _rows(block: Block, data: MultiBench, fitted: "FittedSequences") -> list[dict[str, Any]]:
    from featcache.trainer.ensembles.sequences import outputs_of, performance

    task = data.published.task
    reached: dict[str, list[float]] = {}
    for split in ("validation", "test"):
        rows = sequence_rows(data.splits[split], block.modality, block.settings.device)
        reached[split] = performance(outputs_of(fitted.ensemble, rows), rows.targets, task).tolist()
    return [
        {
            "dataset": block.name,
            "modality": block.modality,
            "depth": block.depth,
            "seed": base,
            "width": block_width(block),
            "pool": fitted.ensemble.shape.pool,
            "learning_rate": block.rates.learning_rate,
            "weight_decay": block.rates.weight_decay,
            "epochs": block.epochs,
            "best_epoch": int(fitted.epoch[number]),
            "kept_by": "mean absolute error" if task == "regression" else "accuracy",
            "kept_at": float(fitted.validation[number]),
            "performance": "sign accuracy" if task == "regression" else "accuracy",
            "valid_performance": reached["validation"][number],
            "test_performance": reached["test"][number],
            "test_rows": len(data.splits["test"]),
        }
        for number, base in enumerate(block.settings.seeds)
    ]
