"""Commands and calls that read caches and run folders, and whether what they answered is right."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack.attacks import Ground, Problem, last_line
from tests.attack.children import Ended, Task
from tests.attack.contents import contents, differences
from tests.attack.site import DATASET, Site

NAMES = ("gpt2", "gpt2/0.mean", "dinov2-small", "dinov2-small/last.patch-mean", "theirs", "linear-*/adapted.captions")


@dataclass(frozen=True)
class Reader:
    """Something that reads.

    Args:
        name: Of the command.
        task: The task on a copy of the site.
        answer: What it says that can be compared with its answer where nothing is damaged.
        may_lack: Parts of the answer may be errors or missing: each part that is there must be right.
        slow: Takes more than a second.
    """

    name: str
    task: Callable[[Site, Path], Task]
    answer: Callable[[Ended, Path], Any] = lambda ended, copy: None
    may_lack: bool = False
    slow: bool = False


def loaded(cache_folder: Path) -> dict[str, str]:
    """Every array by digest and the usual names -> hash of values, ids, groups, splits and labels, or our error.

    Raises:
        Exception: Whatever is none of our errors.
    """
    from featcache.cache import Cache
    from featcache.data.errors import DataError
    from featcache.errors import FeatcacheError

    ours = (FeatcacheError, DataError)
    answers: dict[str, str] = {}
    try:
        opened = Cache(cache_folder)
        names = [(array.name[0], f"{'/'.join(array.name[1:4])}@{array.digest}") for array in opened.arrays()]
    except ours as error:
        return {"cache": f"{type(error).__name__}: {error}"}
    for dataset, name in [*names, *(("tiny", name) for name in NAMES)]:
        try:
            answers[f"{dataset} {name}"] = _hash_features(opened.load(dataset, name))
        except ours as error:
            answers[f"{dataset} {name}"] = f"{type(error).__name__}: {error}"
    return answers


def loaded_by_digest(cache_folder: Path) -> dict[str, str]:
    """As `loaded`, without names: a pull that has failed in part leaves other arrays to stand for them."""
    return {name: value for name, value in loaded(cache_folder).items() if "@" in name}


def _hash_features(features: Any) -> str:
    parts = [np.ascontiguousarray(features.values).tobytes()]
    columns = [features.ids, features.groups, features.splits, *dict(sorted(features.labels.items())).values()]
    parts += [json.dumps([str(value) for value in column]).encode() for column in columns]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def run_answers(run_folder: Path) -> dict[str, str]:
    """Weights and tables of a run, hashed, or our errors."""
    from featcache.errors import FeatcacheError
    from featcache.trainer.run import load_run

    def hashed(part: Callable[[], bytes]) -> str:
        try:
            return hashlib.sha256(part()).hexdigest()
        except FeatcacheError as error:
            return f"{type(error).__name__}: {error}"

    def weights() -> bytes:
        state = load_run(run_folder).adapters().state_dict()
        return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(state.items()))

    def table(name: str) -> bytes:
        return load_run(run_folder).table(name).write_csv().encode()

    parts = {name: partial(table, name) for name in ("metrics", "contrasts", "map", "kernels")}
    return {name: hashed(part) for name, part in {"weights": weights, **parts}.items()}


def _json_without(*names: str) -> Callable[[Ended, Path], Any]:
    def answer(ended: Ended, copy: Path) -> Any:
        return _strip(json.loads(ended.out), {"seconds", "backend", *names}, f"{copy}")

    return answer


def _strip(value: Any, names: set[str], copy: str) -> Any:
    if isinstance(value, dict):
        return {name: _strip(inner, names, copy) for name, inner in value.items() if name not in names}
    if isinstance(value, list):
        return [_strip(inner, names, copy) for inner in value]
    return value.replace(copy, "copy") if isinstance(value, str) else value


def _listed(ended: Ended, copy: Path) -> dict[str, str]:
    """Arrays that are whole, by their path, with everything that is a number of theirs."""
    parts = ("dataset", "view", "encoder", "layer", "digest")
    rows = json.loads(ended.out)
    return {
        "/".join(row[part] for part in parts): f"{[row[name] for name in ('n', 'd', 'dtype', 'chunks', 'root')]}"
        for row in rows
        if not row["damaged"] and row["committed"] == row["chunks"] and row["root"]
    }


def _shown(ended: Ended, copy: Path) -> Any:
    value = json.loads(ended.out)
    return [value[name] for name in ("digest", "binds", "root", "health")]


def _files(below: str, only: str) -> Callable[[Ended, Path], Any]:
    def answer(ended: Ended, copy: Path) -> Any:
        return contents(copy / below, only)

    return answer


def _value(ended: Ended, copy: Path) -> Any:
    return ended.value


def _command(*words: str, cache: str = "cache") -> Callable[[Site, Path], Task]:
    def task(site: Site, copy: Path) -> Task:
        place = ["--cache", f"{copy / cache}"] if cache else []
        return [*(word.replace("COPY", f"{copy}") for word in words), *place]

    return task


def _call(function: Callable[[Path], Any], below: str) -> Callable[[Site, Path], Task]:
    return lambda site, copy: partial(function, copy / below)


LOAD = Reader("load", _call(loaded, "cache"), _value, may_lack=True)
ALIGN = ("align", DATASET, "theirs", "dinov2-small", "--k", "3", "--permutations", "19", "--json")
OF_CACHES = (
    LOAD,
    Reader("verify", _command("verify", "--deep")),
    Reader("ls", _command("ls", "--json"), _listed, may_lack=True),
    Reader("show", _command("show", DATASET, "gpt2", "--json"), _shown),
    Reader("align", _command(*ALIGN), _json_without()),
    Reader("export", _command("export", DATASET, "gpt2", "COPY/new.npz"), _files("", "new.npz")),
    Reader("du", _command("du")),
    Reader("pull", _command("pull", "COPY/cache", cache="new")),
    Reader("load of what was pulled", _call(loaded_by_digest, "new"), _value, may_lack=True),
    Reader("gc", _command("gc")),
    Reader("embed", _command("embed", "COPY/runs/b"), _files("cache", "linear-s1*/*/*/c.*")),
)
OF_UNFINISHED = (
    Reader("load", _call(loaded, "part"), _value, may_lack=True),
    Reader("verify", _command("verify", "--deep", cache="part")),
    Reader("ls", _command("ls", "--json", cache="part"), _listed, may_lack=True),
    Reader("gc", _command("gc", cache="part")),
    Reader("pull", _command("pull", "COPY/remote", "tiny/captions", cache="part")),
    # a chunk that has a record is not read again: whoever loads it finds what happened to it since
    Reader("extract", lambda site, copy: site.extract(copy, "dinov2-small", cache="part")),
    Reader("load at the end", _call(loaded, "part"), _value, may_lack=True),
)
GOES_ON = Reader("extract", lambda site, copy: site.extract(copy, "gpt2"), _files("cache", "gpt2/*/*/c.*"))
OF_RUNS = (
    Reader("load_run", _call(run_answers, "runs/a"), _value, may_lack=True),
    Reader("load_run", _call(run_answers, "runs/b"), _value, may_lack=True),
    Reader("verify", _command("verify", "COPY/runs/a", "COPY/runs/b", cache="")),
    Reader("embed", _command("embed", "COPY/runs/b"), _files("cache", "linear-s1*/*/*/c.*")),
    Reader(
        "report",
        _command("report", "COPY/runs/a", "COPY/runs/b", "--out", "COPY/page", cache=""),
        _files("page", "*.svg"),
        slow=True,
    ),
)
REMEMBERED = ("mark", "encoder-card", "memory")


def readers_of(kind: str, target: str, *, slow: bool) -> list[Reader]:
    """Who reads a file of a kind; the slow ones if wanted."""
    readers = OF_RUNS if kind.startswith("run-") else OF_UNFINISHED if target.startswith("part/") else OF_CACHES
    chosen = [reader for reader in readers if slow or not reader.slow]
    return [*chosen, GOES_ON] if kind in REMEMBERED else chosen


@cache
def oracle(ground: Ground, reader: Reader) -> Any:
    """What a reader answers where nothing is damaged."""
    with ground.copy() as copy:
        group = next(group for group in (OF_CACHES, OF_UNFINISHED, OF_RUNS, (GOES_ON,)) if reader in group)
        tasks = [each.task(ground.site, copy) for each in group[: group.index(reader) + 1]]
        ended = ground.run(*tasks)[-1]
        if ended.exit:
            raise RuntimeError(f"{ended.what} fails where nothing is damaged: {last_line(ended)}")
        return reader.answer(ended, copy)


def wrong(reader: Reader, ended: Ended, copy: Path, right: Any) -> Iterator[Problem]:
    """Answers with exit code 0 that are not those of an undamaged cache."""
    if ended.exit or ended.hung:
        return
    try:
        answer = reader.answer(ended, copy)
    except (ValueError, KeyError, TypeError) as error:
        yield Problem("silent", f"{reader.name} answers in another form: {error!r}")
        return
    if not reader.may_lack:
        if answer != right:
            both = isinstance(answer, dict) and isinstance(right, dict)
            how = "; ".join(differences(right, answer)[:3]) if both else f"{answer}"[:300]
            yield Problem("silent", f"{reader.name} answers otherwise with exit code 0: {how}")
        return
    for name, value in answer.items():
        if right.get(name) != value and not _is_error(value):
            yield Problem("silent", f"{reader.name}: {name} is {value[:100]} instead of {right.get(name)}")


def _is_error(value: str) -> bool:
    return value.partition(":")[0].isidentifier() and ": " in value
