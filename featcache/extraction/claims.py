"""Claims: which process computes which chunk, where several extract the same arrays on one disk.

They save work and decide nothing: a chunk that two compute is committed once.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from blake3 import blake3

from featcache.storage.local import LocalFolder
from featcache.storage.plain import read_small_json
from featcache.store.array import FeatureArray
from featcache.store.digest import canonical
from featcache.store.leases import CLAIMS, FOLDER, leases, own_leases
from featcache.store.records import record_name

_LOOK_SECONDS, _PATIENCE, _WRITING_SECONDS = 0.25, 5.0, 10.0
_log = logging.getLogger(__name__)


class Claims:
    """The chunks of some arrays as several processes divide them among themselves, each the next that is free.

    A claim is a file that names the lease of its process. It holds while that lease is renewed, so that the chunks of a
    process that died, was stopped or sleeps are taken over. In a bucket, or without a lease, every chunk is free.

    Args:
        arrays: The arrays that are filled together, in one cache.
        on_others: Called with each chunk that another process committed meanwhile.
    """

    def __init__(self, arrays: Sequence[FeatureArray], on_others: Callable[[int], None] = lambda chunk: None) -> None:
        self._arrays, self._on_others = list(arrays), on_others
        self._folder, self._lease = self._place()
        self._held = set[int]()
        self._others = dict[int, str]()  # chunk -> the process that has it in hand, in words

    def _place(self) -> tuple[Path | None, str]:
        """Where the claims lie, and the name of this process's lease; None where chunks cannot be claimed."""
        folder = self._arrays[0].folder if self._arrays else None
        if not isinstance(folder, LocalFolder):
            return None, ""
        home = folder.path.parents[4] / FOLDER
        own = [path.name for path in own_leases() if path.parent == home]
        names = sorted(str(array.name) for array in self._arrays)
        place = home / CLAIMS / blake3(canonical(names)).hexdigest(length=16)
        return (place, own[0]) if own else (None, "")

    def __enter__(self) -> Self:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is None:
            return
        self._release(self._held)
        for folder in (self._folder, self._folder.parent):  # the last to leave takes the folders along
            with suppress(OSError):
                folder.rmdir()

    def free(self, chunks: Iterable[int]) -> Iterable[int]:
        """Of some chunks those that are free, each claimed when it is asked for.

        Returns:
            What may be iterated several times at once: every iterator gives the same chunks, and the first to come to
            the next one claims it.
        """
        return list(chunks) if self._folder is None else _Shared(self._claimed(chunks))

    def left(self, chunks: Iterable[int]) -> list[int]:
        """Waits for the chunks that others have in hand.

        Returns:
            Those of them that nobody computes any more; empty once all are committed.
        """
        waiting = [chunk for chunk in chunks if chunk in self._others]
        since, told = time.monotonic(), False
        while waiting:
            lapsed = [chunk for chunk in waiting if not self._is_committed(chunk) and self._claimant(chunk) is None]
            for chunk in waiting:
                if self._is_committed(chunk):
                    self._give_up(chunk)
            if lapsed:
                return lapsed
            waiting = [chunk for chunk in waiting if chunk in self._others]
            if waiting and not told and time.monotonic() - since > _PATIENCE:
                _log.warning("waiting for %d chunks that %s computes", len(waiting), self._others[waiting[0]])
                told = True
            time.sleep(_LOOK_SECONDS if waiting else 0)
        return []

    # -- one chunk ----------------------------------------------------------------------------------------------------

    def _claimed(self, chunks: Iterable[int]) -> Iterator[int]:
        for chunk in chunks:
            self._release({held for held in self._held if self._is_committed(held)})
            if not self._claim(chunk):
                continue
            if self._is_committed(chunk):
                self._release({chunk})
                self._give_up(chunk)
            else:
                yield chunk

    def _claim(self, chunk: int) -> bool:
        """Whether the chunk is this process's from here on."""
        content = json.dumps({"lease": self._lease}).encode()
        for _ in range(2):
            try:
                descriptor = os.open(self._path(chunk), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                claimant = self._claimant(chunk)
                if claimant is not None:
                    self._others[chunk] = claimant
                    return False
                self._path(chunk).unlink(missing_ok=True)
                continue
            except OSError:
                return True  # a full disk, a folder that has gone: better computed twice than not at all
            self._held.add(chunk)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            except OSError:  # a full disk: an empty claim would keep others waiting for nobody
                self._release({chunk})
            self._others.pop(chunk, None)
            return True
        return True  # taken over by two at once

    def _claimant(self, chunk: int) -> str | None:
        """Who has a chunk in hand, in words; None if nobody has."""
        assert self._folder is not None
        every, now = leases(self._folder.parents[2])
        try:
            made = self._path(chunk).lstat().st_mtime
        except FileNotFoundError:
            return None
        try:
            name = read_small_json(self._path(chunk))["lease"]
        except (OSError, ValueError, TypeError, KeyError):  # it has gone, is being written, or never will be
            return "another process" if now - made < _WRITING_SECONDS else None
        owner = next((each for each in every if each.path.name == name and each.is_awake(now)), None)
        return owner and f"process {owner.owner.number} on {owner.owner.host}"

    def _is_committed(self, chunk: int) -> bool:
        return all(array.folder.exists(record_name(chunk)) for array in self._arrays)

    def _give_up(self, chunk: int) -> None:
        self._others.pop(chunk, None)
        self._on_others(chunk)

    def _release(self, chunks: set[int]) -> None:
        for chunk in chunks:
            with suppress(OSError):
                self._path(chunk).unlink(missing_ok=True)
        self._held = self._held - chunks

    def _path(self, chunk: int) -> Path:
        assert self._folder is not None
        return self._folder / str(chunk)


class _Shared:
    """An iterator's items for any number of iterators at once, each taken from it when the first of them needs it."""

    def __init__(self, items: Iterator[int]) -> None:
        self._items, self._taken = items, list[int]()

    def __iter__(self) -> Iterator[int]:
        at = 0
        while True:
            if at == len(self._taken):
                item = next(self._items, None)
                if item is None:
                    return
                self._taken.append(item)
            yield self._taken[at]
            at += 1
