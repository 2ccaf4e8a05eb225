"""What the rows of a view cost an encoder on this machine, from a sample of which nothing is stored."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, load_encoder
from featcache.errors import ExtractionFailed
from featcache.extraction.job import choose_view


@dataclass(frozen=True)
class EncoderCost:
    """What a row of a view costs an encoder. Times hold for the machine that they name.

    Args:
        dataset: Name of the data set.
        view: Its view.
        encoder: Name of the encoder's entry.
        modality: "image", "text" or "audio".
        layer: The top layer and its pooling; the passes go through the whole network.
        width: Of that layer.
        parameters: Elements of the parameters that a pass reads: no head that features do not need.
        flops: Floating-point operations a row in batches of the sample, padding included: matrix products, convolutions
            and attention, a multiplication and its addition as two.
        prepare_ms: Median milliseconds to read, decode and preprocess a row, on one thread.
        forward_ms: Median milliseconds a row of a forward pass, over batches and repeats.
        rows: Of the sample, spread over the view.
        batch: Rows of a forward pass, of like length.
        repeats: Measured passes of each batch.
        compute: Type that is computed in.
        device: Of torch.
        processor: The device's name, as its system gives it.
        threads: Of torch, on the CPU.
    """

    dataset: str
    view: str
    encoder: str
    modality: str
    layer: str
    width: int
    parameters: int
    flops: float
    prepare_ms: float
    forward_ms: float
    rows: int
    batch: int
    repeats: int
    compute: str
    device: str
    processor: str
    threads: int


@dataclass(frozen=True)
class CostSettings:
    """How a cost is measured."""

    rows: int = 64
    batch: int = 16
    repeats: int = 3


def measure_costs(
    dataset: Dataset,
    specs: Sequence[EncoderSpec],
    options: EncodeOptions,
    settings: CostSettings,
    *,
    view: str | None = None,
    memo: Path,
) -> list[EncoderCost]:
    """Measures encoders one after the other over a data set, each over the view that it would encode.

    Raises:
        UsageError: If a view or the device does not exist or does not fit.
        WeightsMissing: If weights cannot be found.
        WeightsInvalid: If they are not what the entry declares.
        ExtractionFailed: As `measure_cost`.
    """
    views = [choose_view(dataset, spec, view) for spec in specs]
    return [
        measure_cost(dataset.name, view, load_encoder(spec, options, memo=memo), options.device, settings)
        for spec, view in zip(specs, views, strict=True)
    ]


def measure_cost(dataset: str, view: View, encoder: Encoder, device: str, settings: CostSettings) -> EncoderCost:
    """Measures an encoder over rows spread evenly over a view, of like length together as an extraction runs them.

    Args:
        dataset: Name of the data set, for the row.
        view: Where the rows come from.
        encoder: Ready to run on `device`.
        device: Of torch.
        settings: How much is measured.

    Raises:
        ExtractionFailed: If a row of the sample cannot be decoded or prepared; names it.
    """
    from featcache.encoders.cost import count_flops, count_parameters, forward_milliseconds

    rows = sorted({round(each) for each in torch.linspace(0, len(view) - 1, min(settings.rows, len(view))).tolist()})
    prepared, seconds = _prepared(view, encoder, rows)
    prepared.sort(key=encoder.cost)
    batches = [prepared[start : start + settings.batch] for start in range(0, len(prepared), settings.batch)]
    layer = top_layer(list(encoder.card.widths))
    return EncoderCost(
        dataset=dataset,
        view=view.name,
        encoder=encoder.card.name,
        modality=encoder.card.modality,
        layer=layer,
        width=encoder.card.widths[layer],
        parameters=count_parameters(encoder, prepared[:1], [layer]),
        flops=count_flops(encoder, batches, [layer]),
        prepare_ms=median(seconds) * 1e3,
        forward_ms=forward_milliseconds(encoder, batches, [layer], repeats=settings.repeats),
        rows=len(prepared),
        batch=settings.batch,
        repeats=settings.repeats,
        compute=encoder.card.binds["compute"],
        device=device,
        processor=processor(device),
        threads=torch.get_num_threads(),
    )


def _prepared(view: View, encoder: Encoder, rows: list[int]) -> tuple[list[Any], list[float]]:
    """Prepared rows and the seconds that each took, after one that warms up."""
    prepared: list[Any] = []
    seconds: list[float] = []
    for row in [rows[0], *rows]:
        started = perf_counter()
        try:
            prepared.append(encoder.prepare(view.read(row)))
        except ExtractionFailed as error:
            raise ExtractionFailed(f"row {view.ids[row]!r} of {view.name}: {error}") from error
        seconds.append(perf_counter() - started)
    return prepared[1:], seconds[1:]


def top_layer(names: list[str]) -> str:
    """The deepest hidden layer of a card, with its first pooling.

    Example:
        >>> top_layer(["0.cls", "0.patch-mean", "last.cls", "last.patch-mean", "lm.bits-per-byte"])
        'last.cls'
    """
    hidden = [name for name in names if not name.startswith("lm.")] or names
    deepest = hidden[-1].rpartition(".")[0]
    return next(name for name in hidden if name.rpartition(".")[0] == deepest)


def processor(device: str) -> str:
    """The name of a device's processor, as its system gives it; that of the machine where it gives none."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
