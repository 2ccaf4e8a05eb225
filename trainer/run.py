"""Run folders: weights, settings and tables of one training, whole or absent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3
from jaxtyping import Float
from numpy.typing import NDArray

from featcache.errors import UsageError
from featcache.features import Features
from featcache.provenance import commit, library_version
from featcache.storage.outputs import parquet_bytes
from featcache.trainer import run_format1
from featcache.trainer.adapters import Adapters, build_adapters, copy_settings, module_key
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged, RunExists
from featcache.trainer.losses import initial_parameters
from featcache.trainer.run_files import FORMAT, damaged, read_table
from featcache.trainer.run_search import find_run, is_run
from featcache.trainer.seeds import stream_seed
from featcache.trainer.solve import solved_width

if TYPE_CHECKING:
    import polars as pl

LIBRARIES = ("featcache", "torch", "numpy", "polars", "safetensors")
EMBED_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run folder.

    Args:
        path: The folder.
        config: config.json; of a run of format 1, in the words of format 2.
        format: Of the folder: 1 (written by featcache 0.1, without manifest and contrasts) or 2.
        already_there: Whether `train` found it finished, at its beginning or its end, and wrote nothing.
    """

    path: Path
    config: dict[str, Any]
    format: int = FORMAT
    already_there: bool = False

    @property
    def sides(self) -> list[str]:
        """Names of the sides, in their order."""
        return [*self.config["sides"]]

    def adapters(self) -> Adapters:
        """Adapters of the selected epoch, on the CPU.

        Raises:
            RunDamaged: If the weights cannot be read or are not those of the configuration.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / "adapters.safetensors"
        settings = FitConfig.model_validate(self.config["config"])
        try:
            weights = load_file(path)
            if self.format == 1:
                weights = run_format1.renamed_weights(weights)
            widths = {name: len(weights[f"sides.{module_key(name)}.mean"]) for name in self.sides}
            width = solved_width(weights) if settings.solved else settings.width
            classes = len(weights["classifier"]) if settings.loss == "labels" else 0
            adapters = _blank_adapters(settings, widths, width, classes=classes)
            adapters.load_state_dict(weights)
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self.path, f"{path.name} cannot be used: {error}") from error
        return adapters

    def untrained(self) -> Adapters:
        """Adapters of the same shapes before the first step, with the run's statistics and the seed of its weights.

        Raises:
            RunDamaged: As `adapters`.
        """
        trained, settings = self.adapters(), FitConfig.model_validate(self.config["config"])
        widths = {name: len(trained[name].mean) for name in self.sides}
        adapters = _blank_adapters(settings, widths, trained.width, seed=stream_seed(settings.seed, "weights"))
        copy_settings(trained, adapters)
        return adapters

    def adapters_for(self, sides: Mapping[str, Features]) -> Adapters:
        """As `adapters`, of a run on these very features.

        Raises:
            UsageError: If the run was trained on others, or with other splits.
        """
        trained = {name: (entry["digest"], self.config["overlay"]) for name, entry in self.config["sides"].items()}
        wanted = {name: (features.digest, features.overlay) for name, features in sides.items()}
        if trained != wanted:
            raise UsageError(
                f"the run {self.path} was trained on {', '.join(trained)} of other features than {', '.join(wanted)}\n"
                "  Train it on the same sides"
            )
        return self.adapters()

    def table(self, name: str) -> "pl.DataFrame":
        """One of TABLES, "leaks" or one of PICTURES; "metrics" and "contrasts" as `featcache.metrics.measure.row` says.

        "leaks" and PICTURES are empty where a run from before them has none.

        Raises:
            RunDamaged: If it cannot be read, or is not of its form.
        """
        return read_table(self.path, name, self.format)


def _blank_adapters(
    settings: FitConfig, widths: Mapping[str, int], width: int, *, seed: int = 0, classes: int = 0
) -> Adapters:
    """Adapters for features of those widths; all but weights that are drawn by the seed is to be copied over."""
    rows = {name: torch.zeros(2, own) for name, own in widths.items()}  # any two give the shapes
    kinds, initial = settings.adapter_kinds(widths), initial_parameters(settings)
    return build_adapters(kinds, rows, width=width, seed=seed, classes=classes, **initial)


def load_run(path: Path) -> Run:
    """Opens a run folder and checks its files against their manifest.

    Args:
        path: The folder that a training wrote; one of featcache 0.1 has no manifest, and opens unchecked.

    Raises:
        RunMissing: If there is no run; names the runs below it or next to it.
        RunDamaged: If a file is missing, is not what was written, or config.json cannot be read.
    """
    path = Path(path)
    config, version = find_run(path)
    return Run(path, config, version)


def apply(
    run: Run, features: Features, *, side: str | None = None, adapters: Adapters | None = None
) -> Float[NDArray[np.float32], "n width"]:
    """Embeds features of one of a run's encoders in its joint space.

    Args:
        run: A finished run.
        features: Rows of any data set, from the encoder and layer that one side was trained on.
        side: Name of the side, where several were trained on that encoder and layer.
        adapters: Used instead of the run's own, as its untrained ones.

    Returns:
        L2-normalised rows, in the order of the features.

    Raises:
        UsageError: If the run has no adapter for this encoder and layer, or several and `side` is not given.
    """
    side = _side_for(run, features, side)
    adapters = run.adapters() if adapters is None else adapters
    width = len(adapters[side].mean)
    if features.values.shape[1] != width:
        raise UsageError(
            f"{features.name} of {features.dataset} has {features.values.shape[1]} dimensions; side {side} of the run "
            f"{run.path} was trained on {width}\n  Use features of the same encoder and weights"
        )
    return embed_rows(adapters, side, features.values)


def embed_rows(
    adapters: Adapters, side: str, values: Float[NDArray[Any], "n d"]
) -> Float[NDArray[np.float32], "n width"]:
    """Rows of one side in the joint space, of length 1, block by block.

    Args:
        adapters: Of a run.
        side: Name of the side.
        values: Of the width that it was trained on.
    """
    embedded = np.empty((len(values), adapters.width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(embedded), EMBED_ROWS):
            rows = torch.from_numpy(np.ascontiguousarray(values[start : start + EMBED_ROWS])).float()
            embedded[start : start + EMBED_ROWS] = adapters.embed(side, rows).numpy()
    return embedded


def _side_for(run: Run, features: Features, side: str | None) -> str:
    trained = run.config["sides"]
    names = {name: f"{entry['encoder']}/{entry['layer']}" for name, entry in trained.items()}
    fits = [name for name, source in names.items() if source == features.name]
    by_view = [name for name in fits if trained[name]["view"] == features.view]
    chosen = [side] if side is not None else by_view if len(by_view) == 1 else fits
    if side is not None and side not in fits or not fits:
        wanted = f"side {side!r}" if side else "adapter"
        listed = ", ".join(f"{name}: {source}" for name, source in names.items())
        raise UsageError(
            f"the run {run.path} has no {wanted} for {features.name}; it has {listed}\n  Use their features"
        )
    if len(chosen) > 1:
        listed = " or ".join(f'side="{name}"' for name in chosen)
        raise UsageError(f"several sides of the run {run.path} were trained on {features.name}\n  Say {listed}")
    return chosen[0]


def run_identity(
    sides: Mapping[str, Features],
    reference: Features | None,
    config: FitConfig,
    control: Run | None = None,
    *,
    drop_leaks: bool = False,
) -> dict[str, Any]:
    """What makes two trainings the same: settings, data set, overlay, and digest and root of each array.

    And whether validation and test groups that leak are left out: nothing else that is done about them changes a score.
    """
    settings = config.recorded()
    recorded = ("view", "encoder", "layer", "digest", "root", "encoder_hash")
    first = next(iter(sides.values()))
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {
        "format": FORMAT,
        "config": settings,
        "config_hash": blake3(canonical.encode()).hexdigest(),
        "dataset": first.dataset,
        "overlay": first.overlay,
        "leaks": "dropped" if drop_leaks else "kept",
        "sides": {name: {what: getattr(features, what) for what in recorded} for name, features in sides.items()},
        "reference": reference and {what: getattr(reference, what) for what in recorded},
        "control": control and control.config["config_hash"],
    }


def existing_run(out: Path, identity: dict[str, Any], *, overwrite: bool) -> Run | None:
    """The finished run of this identity in a folder; None where a new one may be written.

    Args:
        out: The run folder.
        identity: From `run_identity`.
        overwrite: Another or damaged run may be replaced.

    Raises:
        RunExists: If something else is there.
        RunDamaged: If the run that is there cannot be read and must not be replaced.
    """
    if not out.exists():
        return None
    if not is_run(out):
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise RunExists(f"{out} is there and is not a run\n  Choose another folder")
    try:
        run = load_run(out)
    except RunDamaged:
        if overwrite:
            return None
        raise
    differs = [name for name in identity if run.config.get(name) != identity[name]]
    if not differs:
        return replace(run, already_there=True)
    if overwrite:
        return None
    if run.format != FORMAT:
        raise RunExists(
            f"a run of featcache 0.1 stands in {out}; it opens and reports, but was not measured as this version does\n"
            "  Choose another folder, or add --overwrite"
        )
    what = ", ".join(_what_differs(identity, run.config, differs))
    raise RunExists(f"another run stands in {out}; it differs in {what}\n  Choose another folder, or add --overwrite")


def _what_differs(wanted: Mapping[str, Any], present: Mapping[str, Any], differs: list[str]) -> list[str]:
    """Settings and sides one by one, and whatever else differs."""
    inner = {
        part: [f"{part}.{name}" for name in {**wanted[part], **present[part]} if not _same(wanted, present, part, name)]
        for part in ("config", "sides")
    }
    rest = [name for name in differs if name not in inner and (name != "config_hash" or not inner["config"])]
    return [*inner["config"], *inner["sides"], *rest] or differs


def _same(wanted: Mapping[str, Any], present: Mapping[str, Any], part: str, name: str) -> bool:
    return wanted[part].get(name) == present[part].get(name)


def run_provenance(config: FitConfig) -> dict[str, Any]:
    """Versions, threads, device, commit and time of a training."""
    return {
        "versions": {name: library_version(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
        "device": config.device,
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_results(
    folder: Path, adapters: Adapters, identity: dict[str, Any], tables: Mapping[str, "pl.DataFrame"]
) -> None:
    """Writes weights and tables of a run into its unfinished folder.

    Args:
        folder: From `trainer.unfinished.unfinished_folder`.
        adapters: Weights, on the CPU.
        identity: From `run_identity`; kept in the weights' metadata.
        tables: File name without ending -> table.
    """
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in adapters.state_dict().items()}
    # nothing that changes from one run to the next of the same identity: equal runs give equal files
    save_file(weights, folder / "adapters.safetensors", metadata={"config": json.dumps(identity, sort_keys=True)})
    for name, table in tables.items():
        (folder / f"{name}.parquet").write_bytes(parquet_bytes(table))
