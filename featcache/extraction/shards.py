"""Shards: the chunks of an array that are one process's, where several processes extract it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from featcache.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One share of an extraction: of `count` processes, number `index`, counted from 0; UsageError if there is none.

    The chunks are dealt in turn, so that every shard gets its part of the slow ones wherever these lie.

    Example:
        >>> [chunk for chunk in range(10) if Shard(1, 4).mine(chunk)]
        [1, 5, 9]
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"shard {self}: there must be at least one shard, as in 0/1")
        if not 0 <= self.index < self.count:
            raise UsageError(f"shard {self}: shards count from 0: 0/{self.count} to {self.count - 1}/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def mine(self, chunk: int) -> bool:
        """Whether a chunk belongs to this share."""
        return chunk % self.count == self.index

    def part(self, index: int, count: int) -> "Shard":
        """One of `count` parts of this share. The parts together are this share, whatever others cut theirs into.

        Example:
            >>> str(Shard(1, 4).part(0, 2)), str(Shard(1, 4).part(1, 2))
            ('1/8', '5/8')
        """
        inner = Shard(index, count)
        return Shard(self.index + self.count * inner.index, self.count * inner.count)


WHOLE = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """The shard that "1/4" names; UsageError if there is none.

    Example:
        >>> parse_shard("1/4")
        Shard(index=1, count=4)
        >>> parse_shard("4/4")
        Traceback (most recent call last):
            ...
        featcache.errors.UsageError: shard 4/4: shards count from 0: 0/4 to 3/4
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"--shard {text!r} is not of the form INDEX/COUNT, as in 0/4")
    return Shard(int(match[1]), int(match[2]))


def from_environment(env: Mapping[str, str]) -> tuple[Shard, str] | None:
    """The shard that a launcher gave this process, and the variables that say so; None for a single process.

    An element of a SLURM job array is one share; processes that torchrun or srun start in it divide that share.

    Raises:
        UsageError: If the variables contradict each other.

    Example:
        >>> from_environment({"RANK": "2", "WORLD_SIZE": "8"})
        (Shard(index=2, count=8), 'RANK, WORLD_SIZE')
    """
    shard, variables = WHOLE, list[str]()
    for shares in (_array(env), _torchrun(env) or _srun(env)):
        if shares is not None and shares[1] > 1:
            index, count, names = shares
            try:
                shard = shard.part(index, count)
            except UsageError as error:
                raise UsageError(f"{names} name no shard ({error}). Say which with --shard INDEX/COUNT") from error
            variables.append(names)
    return (shard, ", ".join(variables)) if variables else None


def local_device(device: str, env: Mapping[str, str], visible: int) -> tuple[str, str] | None:
    """The GPU of this process among those `visible`, where a launcher started several and "cuda" has no number.

    Returns:
        (device, the variable that says so: LOCAL_RANK or SLURM_LOCALID), or None where nothing is to be chosen.

    Example:
        >>> local_device("cuda", {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, 4)
        ('cuda:1', 'LOCAL_RANK')
    """
    if device != "cuda" or visible < 1:
        return None
    for launched, name in ((_torchrun(env), "LOCAL_RANK"), (_srun(env), "SLURM_LOCALID")):
        if launched is not None and name in env:
            return f"cuda:{_number(env, name) % visible}", name
    return None


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError as error:
        raise UsageError(f"{name}={env[name]!r} is no number. Say which shard with --shard INDEX/COUNT") from error


def _torchrun(env: Mapping[str, str]) -> tuple[int, int, str] | None:
    if "RANK" in env and "WORLD_SIZE" in env:
        return _number(env, "RANK"), _number(env, "WORLD_SIZE"), "RANK, WORLD_SIZE"
    return None


def _srun(env: Mapping[str, str]) -> tuple[int, int, str] | None:
    # A batch script has SLURM_PROCID=0 and SLURM_NTASKS=n too, and is alone: only a step's processes are several.
    if "SLURM_STEP_ID" not in env or "SLURM_PROCID" not in env:
        return None
    for count in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        if count in env:
            return _number(env, "SLURM_PROCID"), _number(env, count), f"SLURM_PROCID, {count}"
    return None


def _array(env: Mapping[str, str]) -> tuple[int, int, str] | None:
    if "SLURM_ARRAY_TASK_ID" not in env:
        return None
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
    if any(name not in env for name in names[1:]):
        raise UsageError("SLURM_ARRAY_TASK_ID is set without _MIN and _MAX. Say which shard with --shard INDEX/COUNT")
    number, least, most = (_number(env, name) for name in names)
    step = _number(env, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in env else 1
    count = (most - least) // max(step, 1) + 1
    size = _number(env, "SLURM_ARRAY_TASK_COUNT") if "SLURM_ARRAY_TASK_COUNT" in env else count
    if size == 1:
        return 0, 1, names[0]
    if step < 1 or (number - least) % step or (most - least) % step or size != count:
        raise UsageError(
            f"the job array has {size} elements between {least} and {most} in steps of {step}: its numbers do not "
            f"count shards. Submit it as --array=0-{size - 1}, or say which shard with --shard INDEX/COUNT"
        )
    return (number - least) // step, count, ", ".join(names)
