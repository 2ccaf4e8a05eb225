"""Single faults in files of caches and run folders: whoever reads them names the damage, or has the right result."""

import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from random import Random

from tests.attack.attacks import Attack, Ground, Problem, badly_ended
from tests.attack.readers import Reader, oracle, readers_of, wrong

COUNT = 1010

# kind of file -> what its path below a copy of the site looks like
KINDS = {
    "chunk": r".*/c\.\d+\.0",
    "record": r".*/commits/\d+\.json",
    "key": r".*/key\.json",
    "plan": r".*/plan\.json",
    "zarr": r".*/zarr\.json",
    "complete": r".*/COMPLETE\.json",
    "partial": r".*/PARTIAL\.json",
    "reused": r".*/REUSED\.json",
    "rows": r".*/rows-\w+\.parquet",
    "pointer": r".*/rows-\w+\.json",
    "overlay": r".*/overlay-\w+\.parquet",
    "current": r".*/current\.json",
    "mark": r".*/\.featcache",
    "encoder-card": r".*/\.encoders/.*",
    "memory": r".*/\.verified/.*",
    "side-file": r".*/\.kept-\d+",
    "run-config": r"runs/.*/config\.json",
    "run-manifest": r"runs/.*/manifest\.json",
    "run-weights": r"runs/.*/adapters\.safetensors",
    "run-metrics": r"runs/.*/metrics\.parquet",
    "run-contrasts": r"runs/.*/contrasts\.parquet",
    "run-map": r"runs/.*/map\.parquet",
    "run-kernels": r"runs/.*/kernels\.parquet",
    "run-leaks": r"runs/.*/leaks\.parquet",
}
PLACES = ("cache", "part", "runs")  # the remote is a cache like any other; files are for imports


def _flipped(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(changed)


FAULTS: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "flipped": _flipped,
    "cut": lambda content, random: content[: random.randrange(1, max(2, len(content)))],
    "emptied": lambda content, random: b"",
    "deleted": lambda content, random: None,
    "appended": lambda content, random: content + random.randbytes(random.randint(1, 64)),
}
BETWEEN = ("replaced", "swapped")  # with another file of its kind


def kind_of(path: str) -> str | None:
    """The kind of a file by its path below a copy of the site; None for one that is no part of caches or runs."""
    return next((kind for kind, form in KINDS.items() if re.fullmatch(form, path)), None)


def files_by_kind(copy: Path) -> dict[str, list[str]]:
    """Every file that can be attacked."""
    files = defaultdict(list)
    for place in PLACES:
        for path in sorted((copy / place).rglob("*")):
            inside = path.relative_to(copy).as_posix()
            if path.is_file() and (kind := kind_of(inside)):
                files[kind].append(inside)
    return dict(files)


def attacks(count: int = COUNT) -> list[Attack]:
    """Kinds and faults in turn; which file it is, and where in it, is drawn."""
    turns = [(kind, fault) for fault in (*FAULTS, *BETWEEN) for kind in KINDS]
    names: dict[str, int] = defaultdict(int)
    made = []
    for kind, fault in islice(cycle(turns), count):
        name = f"faults/{kind}-{fault}"
        made.append(Attack(f"{name}/{names[name]}", partial(_attack, kind, fault, number=names[name])))
        names[name] += 1
    return made


@cache
def _files(ground: Ground) -> dict[str, list[str]]:
    return files_by_kind(ground.site.copy)


def _attack(kind: str, fault: str, ground: Ground, random: Random, *, number: int) -> Iterable[Problem]:
    files = _files(ground)[kind]
    target = random.choice(files)
    with ground.copy() as copy:
        done = damage(copy, target, fault, random, [file for file in files if file != target])
        readers = readers_of(kind, target, slow=number % 6 == 0)
        for problem in read(ground, copy, readers):
            yield Problem(problem.harm, f"{done}: {problem.what}")


def damage(copy: Path, target: str, fault: str, random: Random, others: list[str]) -> str:
    """Does a fault to a file; returns it in words."""
    path = copy / target
    content = path.read_bytes()
    if fault in BETWEEN:
        unlike = [other for other in others if (copy / other).read_bytes() != content]
        if not unlike:
            path.unlink()
            return f"{target} deleted, for want of another one"
        other = random.choice(unlike)
        theirs = (copy / other).read_bytes()
        if fault == "swapped":
            (copy / other).write_bytes(content)
        path.write_bytes(theirs)
        return f"{target} {fault} with {other}"
    changed = FAULTS[fault](content, random)
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    return f"{target} {fault}"


def read(ground: Ground, copy: Path, readers: list[Reader]) -> Iterator[Problem]:
    """Runs readers on a damaged copy and compares with what they make of an undamaged one."""
    ended = ground.run(*(reader.task(ground.site, copy) for reader in readers))
    for reader, each in zip(readers, ended, strict=True):
        yield from badly_ended(each)
        yield from wrong(reader, each, copy, oracle(ground, reader))
    yield from _unnoticed(readers, ended)
    shutil.rmtree(copy / "new", ignore_errors=True)


def _unnoticed(readers: list[Reader], ended: list) -> Iterator[Problem]:
    """Arrays that cannot be loaded though verify finds nothing."""
    by_name = {reader.name: each for reader, each in zip(readers, ended, strict=True)}
    verified, loaded = by_name.get("verify"), by_name.get("load")
    if verified is None or loaded is None or verified.exit or not isinstance(loaded.value, dict):
        return
    failed = [name for name, value in loaded.value.items() if "@" in name and value.startswith("Damaged")]
    if failed:
        yield Problem("silent", f"verify finds nothing, but {failed[0]}: {loaded.value[failed[0]]}")
