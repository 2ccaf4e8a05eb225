"""Extraction from a program: an own module over own rows, or an entry over a data set that has a name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features

if TYPE_CHECKING:
    from featcache.data.views import Dataset


def extract(
    dataset: "Dataset | str",
    encoder: Any,
    *,
    name: str | None = None,
    view: str | None = None,
    prepare: Callable[[Any], Any] | None = None,
    identity: str | None = None,
    layers: Sequence[str] | None = None,
    batch: int = 32,
    dtype: str | None = None,
    device: str = "cpu",
    root: Path | str | None = None,
    cache: Cache | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Features:
    """Encodes a view once, chunk by chunk, and loads the features; what is cached already is not encoded again.

    Args:
        dataset: Its name ("openmoji"), the path of a folder of images, or a `Dataset` (`featcache.make_dataset`).
        encoder: Name of an entry, or a `torch.nn.Module` (put on the device, and in evaluation mode while rows are
            encoded) or other callable: from a batch to a tensor [b, d], or to a
            mapping of layers ("3.cls", "last.mean") to such.
        name: Of an own encoder: what it is cached under.
        view: That is encoded; None: the first of the entry's modality; of an own encoder the data set's first.
        prepare: Of an own encoder: from a decoded row (PIL image, text, waveform, tensor) to what is batched. Tensors
            and arrays are stacked, anything else arrives as a list.
        identity: Of an own encoder: what decides its features beside the weights, which are hashed. A plain function
            has to have one; change it whenever the features change.
        layers: Layers, or layers and poolings, that are kept; None for all.
        batch: Rows of an own encoder that run together.
        dtype: Stored: "float32" or "float16"; None: the entry's, of an own encoder float32.
        device: As "cpu" or "cuda:0".
        root: Folder of the data set's files, where its name needs one.
        cache: None: the default one.
        on_rows: Called with the rows of each batch.

    Returns:
        Features of the default layer. `Cache.load` gives the others.

    Raises:
        UsageError: If a name, layer, device or identity is missing or does not fit.
        DataError: If the data set is not there, or is not as it should be.
        WeightsMissing, WeightsInvalid: Of an entry.
        ExtractionFailed: If a row cannot be read or encoded; what was committed stays.
    """
    from featcache.data.open import dataset_source
    from featcache.data.views import Dataset
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extraction.extract import extract as run
    from featcache.extraction.job import plan_card, plan_job
    from featcache.extraction.own_module import own_encoder

    kept = cache if cache is not None else Cache()
    opened = dataset
    if isinstance(opened, str):
        opened = dataset_source(opened, None if root is None else Path(root)).open()
    if not isinstance(opened, Dataset):
        raise UsageError(
            f"{type(opened).__name__} is no data set: wanted a name, a folder, or what featcache.make_dataset makes"
        )
    with _modes_kept(encoder):
        if isinstance(encoder, str):
            if (name, prepare, identity) != (None, None, None):
                raise UsageError(f"{encoder} is an entry, which has name, preparation and identity of its own")
            options = EncodeOptions(device=device, dtype=dtype)  # type: ignore[arg-type]
            job, own = plan_job(kept, opened, encoder_spec(encoder), options, view=view, layers=layers), None
        else:
            if name is None:
                raise UsageError("an own encoder has to have a name that it is cached under: name=...")
            if view is not None and view not in opened.views:
                raise UsageError(f"{opened.name} has no view {view!r}; it has {', '.join(opened.views)}")
            chosen = opened.views[view or next(iter(opened.views))]
            own = own_encoder(
                encoder, chosen, name=name, identity=identity, prepare=prepare, batch=batch, dtype=dtype or "float32",
                device=device,
            )  # fmt: skip
            job = plan_card(kept, opened, chosen, own.card, EncodeOptions(device=device), layers=layers)
        run(kept, job, encoder=own, on_rows=on_rows)
    return kept.load_array(job.default_target.array)


@contextmanager
def _modes_kept(encoder: Any) -> Iterator[None]:
    """A module's parts are in training or evaluation mode afterwards as they were before."""
    import torch

    parts = list(encoder.modules()) if isinstance(encoder, torch.nn.Module) else []
    modes = [part.training for part in parts]
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
