"""Sampled queries on a Ray cluster: one part of the queries a task, each against the whole gallery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.cache import Cache, open_cache
from featcache.errors import ExtractionFailed, FeatcacheError
from featcache.extraction.ray_cluster import connected_ray, machine_cores
from featcache.metrics.errors import MetricError
from featcache.storage.local import LocalFolder
from featcache.studies.alignment.sample_parts import combined_parts
from featcache.studies.alignment.sampled import Gallery, QueryScores, SampleSettings, galleries, sampled_scores

_LOSSES = 3  # of a task's worker before the sample ends


@dataclass(frozen=True)
class RemoteSample:
    """A sample in values that another process can start from.

    Args:
        cache: Absolute path or address, which every machine must reach.
        dataset: Data set name.
        selectors: The two arrays, with their digests, so that all parts are of the same ones.
        settings: As of `sampled_scores`.
    """

    cache: str
    dataset: str
    selectors: tuple[str, ...]
    settings: SampleSettings

    @classmethod
    def of(cls, cache: Cache, pair: Sequence[Gallery], settings: SampleSettings) -> "RemoteSample":
        """That of some galleries of a cache."""
        place = str(cache.folder.path.resolve()) if isinstance(cache.folder, LocalFolder) else str(cache.folder)
        exact = tuple(f"{one.features.view}/{one.features.name}@{one.features.digest}" for one in pair)
        return cls(place, pair[0].features.dataset, exact, settings)

    def part(self, index: int, count: int, threads: int) -> Any:
        """The scores of one part, or the error: Ray would hand over its own kind of error."""
        import torch

        torch.set_num_threads(threads)
        try:
            pair = galleries(open_cache(self.cache), self.dataset, self.selectors, self.settings.pairing)
            return sampled_scores(pair, self.settings, part=(index, count))
        except (FeatcacheError, MetricError) as error:
            return error


def sampled_on_ray(
    sample: RemoteSample,
    *,
    tasks: int | None = None,
    on_task: Callable[[int, int], None] | None = None,
) -> QueryScores:
    """The scores that one process would compute, from the cluster at $RAY_ADDRESS or from this machine.

    A task whose worker is lost runs again elsewhere.

    Args:
        sample: What is searched.
        tasks: Parts of the queries; None: one a machine. Each reads the whole gallery.
        on_task: Called with the tasks that have ended and all of them.

    Raises:
        LibraryMissing: If Ray is not installed.
        ExtractionFailed: If the worker of a task was lost again and again.
        FeatcacheError, MetricError: As `galleries` and `sampled_scores`.
    """
    with connected_ray() as ray:
        cores = machine_cores(ray)
        count = tasks or max(1, len(cores))
        threads = max(1, min(sum(cores) // count, *cores))
        task = ray.remote(num_cpus=threads, max_retries=_LOSSES)(type(sample).part)
        running = [task.remote(sample, index, count, threads) for index in range(count)]
        number = {reference: index for index, reference in enumerate(running)}
        done = dict[int, QueryScores]()
        while running:
            ready, running = ray.wait(running, num_returns=1)
            try:
                result = ray.get(ready[0])
            except ray.exceptions.WorkerCrashedError as error:
                raise ExtractionFailed(
                    f"the worker of a part was lost {_LOSSES + 1} times\n"
                    "  Where memory ran out, take fewer --queries or --actors, or a smaller --block"
                ) from error
            if isinstance(result, Exception):
                raise result
            done[number[ready[0]]] = result
            if on_task is not None:
                on_task(len(done), count)
    return combined_parts([done[index] for index in range(count)])
