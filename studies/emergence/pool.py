"""Blocks of work over processes of one thread each, with the share done of every block as it goes."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featcache.errors import UsageError
from featcache.studies.experiments.processes import THREADS, child_environment, default_processes

if TYPE_CHECKING:
    from torch import Tensor

Block = TypeVar("Block")
OnShare = Callable[[float], None]  # share of a block that is done, 0 to 1
OnProgress = Callable[[float, str], None]  # share of all work that is done, and the block that ended last or ""
_POLL_SECONDS = 0.5

_shares: Any = None  # in a child: the array that its parent reads


@dataclass(frozen=True)
class Work:
    """A function of blocks that can be sent to another process, as one of a module can.

    Args:
        run: Called with a block, the folder of results, and what takes the share done.
        name: What a block is called in messages.
        cost: Of a block, in any unit.
    """

    run: Callable[[Any, Path, OnShare], None]
    name: Callable[[Any], str]
    cost: Callable[[Any], float]


def run_blocks(
    work: Work, blocks: Sequence[Block], folder: Path, processes: int | None, on_progress: OnProgress | None = None
) -> None:
    """Runs every block, the costliest first; what a block raises ends all and is raised here.

    Args:
        work: What is done.
        blocks: In any order; each writes files of its own.
        folder: Handed to each.
        processes: At a time; 0 runs them here; None: one a core.
        on_progress: Called a few times a second at most.
    """
    report = on_progress or (lambda share, block: None)
    costs = [work.cost(block) for block in blocks]
    order = sorted(range(len(blocks)), key=lambda number: -costs[number])
    total = sum(costs) or 1.0
    processes = default_processes() if processes is None else processes
    if not processes:
        done = 0.0
        for number in order:
            before, cost = done, costs[number]
            work.run(blocks[number], folder, lambda share, b=before, c=cost: report((b + share * c) / total, ""))
            done += cost
            report(done / total, work.name(blocks[number]))
        return
    context = multiprocessing.get_context("spawn")
    shares = context.Array("d", len(blocks), lock=False)
    with (
        child_environment(dict.fromkeys(THREADS, "1")),
        ProcessPoolExecutor(min(processes, len(blocks)) or 1, context, _begin, (shares,)) as pool,
    ):
        waiting: dict[Future[None], int] = {
            pool.submit(_run, work.run, number, blocks[number], folder): number for number in order
        }
        try:
            while waiting:
                ended = wait(waiting, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED").done
                last = ""
                for future in ended:
                    number = waiting.pop(future)
                    future.result()
                    shares[number], last = 1.0, work.name(blocks[number])
                report(sum(share * cost for share, cost in zip(shares, costs, strict=True)) / total, last)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(shares: Any) -> None:
    global _shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the parent ends us
    import torch

    torch.set_num_threads(1)
    _shares = shares


def _run(run: Callable[[Any, Path, OnShare], None], number: int, block: Any, folder: Path) -> None:
    def on_share(share: float) -> None:
        _shares[number] = share

    run(block, folder, on_share)


def block_weights(folder: Path, name: str, again: str) -> "Tensor":
    """The parameters of a block's encoders, as it wrote them.

    Args:
        folder: Of the study.
        name: Of the block's folder.
        again: The command that trains them.

    Raises:
        UsageError: If there are none.
    """
    from safetensors.torch import load_file

    file = folder / "blocks" / name / "weights.safetensors"
    if not file.is_file():
        raise UsageError(f"no encoders at {file}\n  Run: {again}")
    return load_file(file)["parameters"]
