"""Commands as users type them, each in a process of its own, forked from one that has imported the slow libraries."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "numba", "polars", "zarr", "timm", "transformers.models.bert.modeling_bert"])


def typed(*words: str | Path, cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end, for tests of what it says and does.

    What a command imports, and how it ends when it is killed, is not seen here: type that in a fresh process.
    """
    with TemporaryDirectory() as folder:
        process = _FORKS.Process(target=_run, args=([*map(str, words)], str(cwd), dict(environment), folder))
        process.start()
        process.join()
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("1", "2"))
    return subprocess.CompletedProcess(["featcache", *words], process.exitcode or 0, out, err)


def _run(words: list[str], cwd: str, environment: dict[str, str], folder: str) -> None:
    for number in (1, 2):
        os.dup2(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["featcache", *words]
    from featcache.commands.app import main

    main()
