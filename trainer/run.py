"""Run folders: weights, settings and tables of one training, whole or absent."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import ValidationError

from featcache.errors import UsageError
from featcache.features import Features
from featcache.provenance import commit, library_version
from featcache.storage.durable import sync_file, sync_folder
from featcache.trainer.adapters import TwoAdapters, build_adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged, RunExists, RunMissing

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
FILES = ("config.json", "adapters.safetensors", "metrics.parquet", "map.parquet", "kernels.parquet")
LIBRARIES = ("featcache", "torch", "numpy", "polars", "safetensors")
EMBED_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run folder.

    Args:
        path: The folder.
        config: config.json.
        already_there: Whether `train` found it finished and trained nothing.
    """

    path: Path
    config: dict[str, Any]
    already_there: bool = False

    def adapters(self) -> TwoAdapters:
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
            # any two rows give the shapes; every value is loaded over
            rows = [torch.zeros(2, len(weights[f"{side}.mean"])) for side in ("x", "y")]
            adapters = build_adapters(settings.adapter, *rows, width=settings.width, log_scale=0.0, seed=0)
            adapters.load_state_dict(weights)
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise _damaged(self.path, f"{path.name} cannot be used: {error}") from error
        return adapters.eval()

    def metrics(self) -> "pl.DataFrame":
        """The tidy table.

        Raises:
            RunDamaged: If it cannot be read.
        """
        import polars as pl

        try:
            return pl.read_parquet(self.path / "metrics.parquet")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged(self.path, f"metrics.parquet cannot be read: {error}") from error


def load_run(path: Path) -> Run:
    """Opens a run folder.

    Args:
        path: The folder that `train` wrote.

    Raises:
        RunMissing: If there is no run; names the runs beside it.
        RunDamaged: If a file is missing or config.json cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        siblings = path.parent.glob("*/config.json") if path.parent.is_dir() else []
        names = ", ".join(sorted(file.parent.name for file in siblings if not file.parent.name.startswith(".")))
        raise RunMissing(f"no run at {path}\n  Runs beside it: {names or 'none'}\n  Run: featcache train --help")
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise _damaged(path, f"{', '.join(missing)} missing")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        FitConfig.model_validate(config["config"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise _damaged(path, f"config.json cannot be read: {error}") from error
    if config.get("format") != FORMAT:
        raise _damaged(path, f"format {config.get('format')!r}, this version reads {FORMAT}")
    return Run(path, config)


def apply(run: Run, features: Features, *, side: str | None = None) -> Float[NDArray[np.float32], "n width"]:
    """Embeds features of one of a run's two encoders in its joint space.

    Args:
        run: A finished run.
        features: Rows of any data set, from the encoder and layer that one side was trained on.
        side: "x" or "y", where both sides were trained on that encoder and layer.

    Returns:
        L2-normalised rows, in the order of the features.

    Raises:
        UsageError: If the run has no adapter for this encoder and layer, or two and `side` is not given.
    """
    side = _side_for(run, features, side)
    adapters = run.adapters()
    width = int(getattr(adapters, side).mean.shape[0])
    if features.values.shape[1] != width:
        raise UsageError(
            f"{features.name} of {features.dataset} has {features.values.shape[1]} dimensions; side {side} of the run "
            f"{run.path} was trained on {width}\n  Use features of the same encoder and weights"
        )
    embedded = np.empty((len(features.ids), adapters.x.width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(embedded), EMBED_ROWS):
            rows = features.tensor()[start : start + EMBED_ROWS].float()
            embedded[start : start + EMBED_ROWS] = adapters.embed(side, rows).numpy()
    return embedded


def _side_for(run: Run, features: Features, side: str | None) -> str:
    trained = {role: run.config["features"][role] for role in ("x", "y")}
    names = {role: f"{entry['encoder']}/{entry['layer']}" for role, entry in trained.items()}
    fits = [role for role, name in names.items() if name == features.name]
    by_view = [role for role in fits if trained[role]["view"] == features.view]
    chosen = [side] if side in fits else by_view if len(by_view) == 1 and side is None else fits
    if side is not None and side not in fits or not fits:
        wanted = f"side {side!r}" if side else "adapter"
        listed = ", ".join(f"{role}: {name}" for role, name in names.items())
        raise UsageError(
            f"the run {run.path} has no {wanted} for {features.name}; it has {listed}\n  Use their features"
        )
    if len(chosen) > 1:
        raise UsageError(
            f'both sides of the run {run.path} were trained on {features.name}\n  Say side="x" or side="y"'
        )
    return chosen[0]


def run_identity(x: Features, y: Features, reference: Features, config: FitConfig) -> dict[str, Any]:
    """What makes two trainings the same: settings, data set, overlay, and digest and root of each array."""
    settings = config.model_dump(mode="json")
    recorded = ("view", "encoder", "layer", "digest", "root", "encoder_hash")
    used = {
        role: {what: getattr(features, what) for what in recorded}
        for role, features in (("x", x), ("y", y), ("reference", reference))
    }
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {
        "format": FORMAT,
        "config": settings,
        "config_hash": blake3(canonical.encode()).hexdigest(),
        "dataset": x.dataset,
        "overlay": x.overlay,
        "features": used,
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
    is_run = _is_run(out)
    if not is_run and (not out.is_dir() or any(out.iterdir())):
        raise RunExists(f"{out} is there and is not a run\n  Choose another folder")
    if not is_run:
        return None
    try:
        run = load_run(out)
    except RunDamaged:
        if overwrite:
            return None
        raise
    differs = [name for name in identity if run.config.get(name) != identity[name]]
    if not differs:
        return Run(run.path, run.config, already_there=True)
    if overwrite:
        return None
    wanted, present = ({"config": {}, "features": {}, **part} for part in (identity, run.config))
    inner = [
        f"{g}.{name}" for g in ("config", "features") for name in wanted[g] if wanted[g][name] != present[g].get(name)
    ]
    what = ", ".join(inner or differs)
    raise RunExists(f"another run stands in {out}; it differs in {what}\n  Choose another folder, or add --overwrite")


def _is_run(folder: Path) -> bool:
    # other tools keep a config.json too: only ours names its own hash
    if all((folder / name).is_file() for name in ("adapters.safetensors", "kernels.parquet")):
        return True  # a run whose config.json is damaged
    try:
        return "config_hash" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def run_provenance(config: FitConfig) -> dict[str, Any]:
    """Versions, threads, device, commit and time of a training."""
    return {
        "versions": {name: library_version(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
        "device": config.device,
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def unfinished_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its name, durably, when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".making", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        for path in folder.iterdir():
            with path.open("rb") as file:
                sync_file(file.fileno())
        sync_folder(folder)
        if overwrite and _is_run(out):
            # a folder cannot replace a folder that holds files: step the old one aside, then drop it
            aside = folder.with_suffix(".replaced")
            os.rename(out, aside)
            os.rename(folder, out)
            shutil.rmtree(aside)
        else:
            _name(folder, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name(folder: Path, out: Path) -> None:
    try:
        os.rename(folder, out)  # fails if another process has put something there since we looked
    except OSError as error:
        if not out.exists():
            raise
        raise RunExists(f"something else came to stand in {out} meanwhile\n  Choose another folder") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_results(
    folder: Path, adapters: TwoAdapters, identity: dict[str, Any], tables: Mapping[str, "pl.DataFrame"]
) -> None:
    """Writes weights and tables of a run into its unfinished folder.

    Args:
        folder: From `unfinished_folder`.
        adapters: Weights, on the CPU.
        identity: From `run_identity`; kept in the weights' metadata.
        tables: File name without ending -> table.
    """
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in adapters.state_dict().items()}
    # nothing that changes from one run to the next of the same identity: equal runs give equal files
    save_file(weights, folder / "adapters.safetensors", metadata={"config": json.dumps(identity, sort_keys=True)})
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _damaged(path: Path, what: str) -> RunDamaged:
    return RunDamaged(f"the run folder {path} is damaged: {what}\n  Run: featcache train again with --overwrite")
