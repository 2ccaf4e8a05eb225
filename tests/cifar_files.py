"""CIFAR's binary archives in the published byte layout, small."""

import io
import tarfile

import numpy as np

from featcache.data import cifar

NAMES = {
    "batches.meta.txt": "airplane\nautomobile\nbird\n\n",
    "coarse_label_names.txt": "fish\nvehicles\n",
    "fine_label_names.txt": "aquarium_fish\nbus\nshark\n",
}
FINE_TO_COARSE = (0, 1, 0)


def archive_of(name: str) -> cifar.Archive:
    return {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]


def contents(name: str, *, coloured: bool = False) -> dict[str, bytes]:
    """Every file of an archive in the published byte layout, with random pixels.

    Args:
        name: "cifar10" or "cifar100".
        coloured: Each class has more of one colour.
    """
    archive, random = archive_of(name), np.random.default_rng(0)
    files = {file: NAMES[file].encode() for file in archive.labels.values()}
    for file in (*archive.train, *archive.test):
        rows = []
        for row in range(archive.rows[0] if file in archive.train else archive.rows[1]):
            fine = row % 3
            labels = [fine] if name == "cifar10" else [FINE_TO_COARSE[fine], fine]
            pixels = random.integers(0, 256, (3, 1024))
            if coloured:
                pixels[fine] = 128 + pixels[fine] // 2
            rows.append(bytes(labels) + pixels.astype(np.uint8).tobytes())
        files[file] = b"".join(rows)
    return files


def unpacked(root, name: str, files: dict[str, bytes]):
    folder = root / archive_of(name).folder
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return root


def packed(root, name: str, files: dict[str, bytes]):
    archive = archive_of(name)
    with tarfile.open(root / archive.packed, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{archive.folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return root
