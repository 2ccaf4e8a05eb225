"""Small real caches, run folders and files that are attacked, made once by the commands themselves."""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from tests.attack.children import Ended, Surroundings, run, run_all

PHOTOS, CAPTIONS, BROKEN = 40, 2, 7
CHUNK_ROWS = 24  # so that every array has several chunks, the last one short
DATASET = "folder:tiny"
THEIR_IDS = "ids.txt"


@dataclass(frozen=True)
class Site:
    """A folder with everything that is attacked, and the words of each command on a copy of it.

    Args:
        folder: Holds `photos` and `older` (a data set and an older state of it), the weights `gpt2` and `dinov2`, and
            `copy`, which attacks get a copy of: `cache`, `remote`, `runs`, `files`.
    """

    folder: Path

    @property
    def copy(self) -> Path:
        """What each attack gets a copy of."""
        return self.folder / "copy"

    def extract(self, place: Path, encoder: str, *, older: bool = False, cache: str = "cache") -> list[str]:
        """Words of an extraction into a copy."""
        weights = {"gpt2": self.folder / "gpt2", "dinov2-small": self.folder / "dinov2"}[encoder]
        layers = {"gpt2": "0.mean,last.mean", "dinov2-small": "last.cls,last.patch-mean"}[encoder]
        root = self.folder / ("older" if older else "photos")
        words = ["extract", DATASET, encoder, "--root", root, "--weights", weights, "--layers", layers]
        words += ["--workers", "0", "--split", "60/20/20", "--seed", "1", "--on-error", "skip"]
        return [*map(str, words), "--cache", f"{place / cache}"]

    def train(self, place: Path, run_name: str, seed: int) -> list[str]:
        """Words of a training in a copy."""
        words = ["train", DATASET, "gpt2", "dinov2-small", "--reference", "none", "--epochs", "2", "--width", "8"]
        out = ["--out", f"{place / 'runs' / run_name}", "--cache", f"{place / 'cache'}"]
        return [*words, "--k", "3", "--seed", f"{seed}", *out]


def in_small_chunks() -> "mock._patch[object]":
    """What this process and its children extract or derive is cut into chunks of few rows."""

    def rows(n: int, row_bytes: int) -> int:
        return min(n, CHUNK_ROWS)

    return mock.patch.multiple("featcache.extraction.job", chunk_rows=rows)


def warm_up() -> None:
    """Loads compiled loops and first tensors in this process, so that its children need not."""
    import torch

    from featcache import metrics

    values = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    metrics.mutual_knn(values, values.flip(0), k=3)
    torch.nn.Linear(8, 8)(values)


def build(folder: Path) -> Site:
    """Makes the site in a folder, which must be empty."""
    site = Site(folder)
    place = site.copy
    (place / "files").mkdir(parents=True)
    _must(run(partial(_weights, folder)))
    for name, change in (("older", True), ("photos", False)):
        _must(run(partial(_photos, folder / name, older=change)))
    cache = ["--cache", f"{place / 'cache'}"]
    arrays = ["align", DATASET, "gpt2", "dinov2-small", "--k", "3", "--permutations", "19", *cache]
    _must(
        run(site.extract(place, "gpt2", older=True)),
        run(site.extract(place, "gpt2")),
        run(site.extract(place, "dinov2-small")),
        *run_all([arrays, site.train(place, "a", 0), site.train(place, "b", 1)]),
        run(["embed", f"{place / 'runs' / 'a'}", *cache]),
        run(partial(_their_files, place / "files")),
        run([*import_words(place, "theirs.npy", "theirs")]),
        *run_all([["export", DATASET, "gpt2", f"{place / 'files' / f'gpt2{end}'}", *cache] for end in EXPORTS]),
        run(["push", f"{place / 'remote'}", *cache]),
        run(["pull", f"{place / 'remote'}", "tiny/captions/gpt2", "--rows", "0:30", "--cache", f"{place / 'part'}"]),
        run(partial(_interrupt, site.extract(place, "dinov2-small", cache="part"))),
        run(["verify", "--deep", *cache]),
    )
    return site


EXPORTS = (".npz", ".h5", ".parquet", ".safetensors")


def import_words(place: Path, file: str, encoder: str, *more: str) -> list[str]:
    """Words that import a file of a copy as another encoder's features of its photos."""
    words = ["import", f"{place / 'files' / file}", "--dataset", "tiny", "--encoder", encoder, "--layer", "last.mean"]
    words += ["--ids", f"{place / 'files' / THEIR_IDS}"] if file.startswith("theirs") else []
    return [*words, "--modality", "image", *more, "--cache", f"{place / 'cache'}"]


def fresh_copy(site: Site, place: Path) -> Path:
    """Copies what is attacked into a new folder; modification times stay, so that what is remembered holds."""
    shutil.copytree(site.copy, place, symlinks=True)
    return place


def _must(*ended: Ended) -> None:
    for each in ended:
        if each.exit:
            raise RuntimeError(f"the site cannot be built: {each.what}\n{each.err}{each.out}")


def _weights(folder: Path) -> None:
    from tests import hub

    hub.gpt2_repo(folder / "gpt2")
    hub.dinov2_repo(folder / "dinov2")


def _photos(folder: Path, *, older: bool) -> None:
    """Photos of random colours, one of them broken, and captions, some of which were others before."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for row in range(PHOTOS):
        name = f"{row:04}.png"
        Image.fromarray(rng.integers(0, 256, (32, 30, 3), np.uint8), "RGB").save(folder / name)
        changed = " (older)" if older and row % 5 == 0 else ""
        lines += [f"{name},{'a dog and ' * (row % 5)}number {row}{changed}"]
        lines += [f"{name},{'a cat or ' * (row % 3)}count {row} take {take}" for take in range(1, CAPTIONS)]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    (folder / f"{BROKEN:04}.png").write_bytes(b"no picture")


def _interrupt(words: list[str]) -> None:
    """An extraction that is interrupted in its fifth batch: a chunk is committed, rows of another are kept."""
    from contextlib import suppress

    from featcache.encoders.encoder import Encoder

    encode, batches = Encoder.encode, iter(range(10))

    def interrupted(self: Encoder, prepared: list[object], layers: list[str]) -> dict[str, object]:
        if next(batches) == 4:
            raise KeyboardInterrupt
        return encode(self, prepared, layers)

    from featcache.commands.app import main

    sys.argv = ["featcache", *words]
    replaced = {"encode": interrupted, "batch_size": lambda self, available: 8}
    with mock.patch.multiple(Encoder, **replaced), suppress(SystemExit):
        main()


def _their_files(folder: Path) -> None:
    """Files of another tool: rows of the photos, under ids that are cached, as .npy and .pt."""
    import torch

    values = np.random.default_rng(1).standard_normal((PHOTOS, 6)).astype(np.float32)
    np.save(folder / "theirs.npy", values)
    torch.save(torch.from_numpy(values), folder / "theirs.pt")
    (folder / THEIR_IDS).write_text("".join(f"{row:04}.png\n" for row in range(PHOTOS)))


def quiet_environment(folder: Path) -> Surroundings:
    """A home of its own, where nothing of the user's is read or written."""
    variables = {"FEATCACHE_HOME": f"{folder / 'home'}", "HOME": f"{folder}", "COLUMNS": "200"}
    return Surroundings(variables | {name: "1" for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")})
