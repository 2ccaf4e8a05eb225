"""Diagnosis: findings about the installation, the machine, a cache and a remote, each with what to do about it."""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.extraction.limits import available_memory
from featcache.storage import durable
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from featcache.store.leases import lease
from featcache.store.mark import is_cache

State = Literal["ok", "warn", "fail"]
FAISS = ("faiss", "faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
PROBE = ".featcache-probe-"
_LITTLE_DISK, _LITTLE_MEMORY = 5 * 2**30, 4 * 2**30  # bytes
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """What one probe of the doctor found."""

    what: str  # was looked at
    state: State  # "warn": works, with a cost that `detail` names; "fail": will go wrong
    detail: str  # what was found
    remedy: str = ""  # what to do about it


Probe = Callable[[], Iterator[Finding]]


def probe(cache: Cache | None = None, remote: Folder | None = None) -> list[Finding]:
    """Looks at the installation, the machine, a cache and a remote; no error escapes, each becomes a finding.

    A remote is written to and cleaned up again: two small files whose names start with PROBE; on the Hub that makes
    commits. Nothing is written to a remote that does not exist.

    Args:
        cache: The cache to look at; None for none.
        remote: A folder, a bucket or a Hub repository that features are to be shared through; None for none.

    Example:
        probe(Cache(), open_folder("s3://bucket/path"))
    """
    probes: list[tuple[str, Probe]] = [
        ("python", _python),
        ("packages", _packages),
        ("torch and torchvision", _torch_pair),
        ("faiss", _faiss),
        ("memory", _memory),
        ("gpu", _gpu),
        ("credentials", partial(_credentials, remote)),
    ]
    if cache is not None:
        local = isinstance(cache.folder, LocalFolder)
        probes.append(("cache", partial(_cache, cache.root) if local else partial(_remote, cache.folder, "cache")))
    if remote is not None:
        probes.append(("remote", partial(_remote, remote, "remote")))
    return [finding for what, look in probes for finding in _findings(what, look)]


def _findings(what: str, look: Probe) -> list[Finding]:
    """A probe's findings; if it fails on the way, those it had, and the failure."""
    findings: list[Finding] = []
    try:
        findings.extend(look())
    except FeatcacheError as error:
        findings.append(Finding(what, "fail", str(error)))
    except Exception as error:  # whatever is wrong here, the other probes are wanted all the more
        findings.append(Finding(what, "fail", f"{type(error).__name__}: {' '.join(str(error).split())}"))
    return findings


# -- the installation -------------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    if platform.system() == "Windows":
        yield Finding("python", "fail", "Windows is not supported: files cannot be made durable", "use WSL")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    """Which of what pyproject.toml asks for is there, by extra."""
    try:
        wanted = requires("featcache") or []
    except PackageNotFoundError:
        yield Finding("packages", "warn", "featcache is not installed, only its source is there", "pip install -e .")
        return
    lacking: dict[str, list[str]] = {}
    for line in wanted:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)""", line)
        lacking.setdefault(extra[1] if extra else "", [])
        if _version(name) is None and name.lower() != "featcache":
            lacking[extra[1] if extra else ""].append(name)
    core = lacking.pop("", [])
    if core:
        yield Finding("packages", "fail", f"missing: {', '.join(core)}", "pip install --upgrade featcache")
    whole = sorted(extra for extra, names in lacking.items() if not names)
    yield Finding("packages", "ok", f"featcache {_version('featcache')} with extras: {', '.join(whole) or 'none'}")
    parts = "; ".join(f"{extra} lacks {', '.join(names)}" for extra, names in sorted(lacking.items()) if names)
    if parts:
        yield Finding("packages", "ok", parts, "where you need one: pip install 'featcache[EXTRA]'")


def _torch_pair() -> Iterator[Finding]:
    """Whether torchvision was built for the torch that is there; by their metadata, without importing them."""
    torch, vision = _version("torch"), _version("torchvision")
    what = "torch and torchvision"
    if torch is None or vision is None:
        detail = f"torch {torch or 'is not installed'}, torchvision {vision or 'is not installed'}"
        yield Finding(what, "ok" if torch else "fail", detail, "" if torch else "pip install torch")
        return
    both = f"torch {torch}, torchvision {vision}"
    pin = next((match[1] for line in requires("torchvision") or [] if (match := _TORCH_PIN.match(line))), None)
    remedy = f"pip install --upgrade torch=={pin or torch.partition('+')[0]} torchvision"
    builds = {build for build in (torch.partition("+")[2], vision.partition("+")[2]) if build}
    if pin is not None and pin.partition("+")[0] != torch.partition("+")[0]:
        yield Finding(what, "fail", f"{both}, which wants torch {pin}: operators are missing or crash", remedy)
    elif len(builds) > 1:
        yield Finding(what, "fail", f"{both}: built for {' and '.join(sorted(builds))}", remedy)
    else:
        yield Finding(what, "ok", both)


_TORCH_PIN = re.compile(r"torch\s*\(?==\s*([\w.+]+)")


def _faiss() -> Iterator[Finding]:
    """Two packages own the module faiss; one installed over the other silently loses functions."""
    there = [name for name in FAISS if _version(name) is not None]
    if not there:
        yield Finding("faiss", "ok", "not installed: torch searches, as exactly", "pip install 'featcache[cpu]'")
        return
    if len(there) > 1:
        remedy = f"pip uninstall -y {' '.join(there)}; then pip install 'featcache[cpu]' or 'featcache[gpu]'"
        yield Finding("faiss", "fail", f"{' and '.join(there)} overwrite each other", remedy)
    # in a process of its own: beside torch it can crash (macOS), and a lost function shows only on use
    code = "import faiss; faiss.knn, faiss.ResultHeap, faiss.IndexFlatIP; print(faiss.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        yield Finding("faiss", "ok", f"{there[0]} {done.stdout.strip()} imports")
    else:
        why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        yield Finding("faiss", "fail", f"does not import: {why}", f"pip install --force-reinstall {there[0]}")


# -- the machine ------------------------------------------------------------------------------------------------------


def _memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        yield Finding("memory", "ok", "the system does not say how much there is")
        return
    free = available_memory()
    detail = f"{total / _GIB:.1f} GiB" + (f", {free / _GIB:.1f} GiB of them available" if free is not None else "")
    state: State = "warn" if (total if free is None else free) < _LITTLE_MEMORY else "ok"
    yield Finding("memory", state, detail, "encode in smaller parts, or on a larger machine" if state == "warn" else "")


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding("gpu", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "Apple GPU (--device mps)")
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding(
            "gpu", "warn", f"an NVIDIA driver is here, but {built}", "install torch for your driver: pytorch.org"
        )
    else:
        yield Finding("gpu", "ok", "none; encoders run on the CPU")


# -- credentials ------------------------------------------------------------------------------------------------------

_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    "az": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"),
}
_FILES = {
    "s3": ("~/.aws/credentials", "~/.aws/config"),
    "gs": ("~/.config/gcloud/application_default_credentials.json",),
    "az": (),
}
_LOG_IN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "hf auth login",
}


def _credentials(remote: Folder | None) -> Iterator[Finding]:
    """Where credentials lie, never what they are; all places, or those of the remote."""
    scheme = str(remote).partition("://")[0] if remote is not None and "://" in str(remote) else None
    if remote is not None and scheme is None:
        return
    places = {kind: _places(kind) for kind in _LOG_IN if scheme in (None, kind)}
    for kind, names in places.items():
        if names:
            yield Finding("credentials", "ok", f"{kind}://: {', '.join(names)}")
        elif scheme:
            yield Finding("credentials", "warn", f"none for {kind}:// in the usual places", _LOG_IN[kind])
    if scheme is None and not any(places.values()):
        yield Finding("credentials", "ok", "none; none are needed on this machine alone")


def _places(kind: str) -> list[str]:
    if kind == "hf":
        from featcache.storage.hub import token_place

        place = token_place()
        return [place] if place else []
    named = [f"${name}" for name in _VARIABLES[kind] if os.environ.get(name)]
    return named + [name for name in _FILES[kind] if Path(name).expanduser().is_file()]


# -- a cache on this disk ---------------------------------------------------------------------------------------------


def _cache(root: Path) -> Iterator[Finding]:
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    new = "" if place == root else " (made by the first extraction)"
    if not place.is_dir():
        yield Finding("cache", "fail", f"{place} is no folder", "name another: --cache, or FEATCACHE_HOME")
        return
    free = shutil.disk_usage(place).free
    state: State = "warn" if free < _LITTLE_DISK else "ok"
    yield Finding(
        "cache", state, f"{root}{new}: {free / _GIB:.1f} GiB free", "free some space" if state == "warn" else ""
    )
    yield from _permissions(place)
    yield from _durability(place)


def _permissions(place: Path) -> Iterator[Finding]:
    mode = place.stat().st_mode
    text = f"{stat.filemode(mode)} {place}"
    if mode & stat.S_IWGRP and not mode & stat.S_ISGID:
        detail = f"{text}: the group may write, but what you add belongs to your own group"
        yield Finding("permissions", "warn", detail, f"chmod g+s {place}, and umask 002 for those who share it")
    else:
        yield Finding("permissions", "ok", text)


def _durability(place: Path) -> Iterator[Finding]:
    """Makes and removes files as the store does: whole, synced, linked once."""
    if not os.access(place, os.W_OK):
        yield Finding("writing", "warn", f"{place} can be read only: what is cached is used, nothing is added")
        return
    # a lease, lest gc takes the probes; a folder that is no cache is not made one by being looked at
    with lease(LocalFolder(place), "doctor") if is_cache(place) else nullcontext():
        yield from _written_here(place)


def _written_here(place: Path) -> Iterator[Finding]:
    name, link = place / f"{PROBE}{uuid.uuid4().hex}", place / f"{PROBE}{uuid.uuid4().hex}"
    try:
        made = durable.write_once(name, b"probe"), durable.write_once(name, b"other")
        if made != (True, False) or name.read_bytes() != b"probe":
            yield Finding("writing", "fail", f"{place} lets a second writer overwrite the first", "use another disk")
            return
        yield Finding("writing", "ok", "files are synced, folders too, and a second writer is refused")
        try:
            os.link(name, link)
            yield Finding("hard links", "ok", "there")
        except OSError as error:
            detail = f"{error.strerror}: a lock folder and a rename take their place, a little slower"
            yield Finding("hard links", "warn", detail)
    finally:
        for left in (name, link):
            left.unlink(missing_ok=True)


# -- a remote ---------------------------------------------------------------------------------------------------------


def _remote(remote: Folder, what: str) -> Iterator[Finding]:
    if not remote.there():
        detail = f"{remote} is empty, does not exist, or cannot be seen"
        if isinstance(remote, LocalFolder) or str(remote).startswith("hf://"):
            yield Finding(what, "warn", detail, f"featcache push {remote} makes it")
            return
        yield Finding(what, "ok", detail)
    else:
        yield Finding(what, "ok", f"{remote} can be reached and listed: {_count(remote.folders())} at the top")
    name = f"{PROBE}{uuid.uuid4().hex}"
    first, second = _writers(remote)
    try:
        made = first.write_once(name, b"probe of the first")
    except (FeatcacheError, OSError) as error:
        yield Finding(what, "warn", f"cannot be written to, only pulled from: {error}")
        return
    try:
        yield from _written(what, name, made, first, second)
    finally:
        second.remove(name)
    left = name in _writers(remote)[0].names()
    yield Finding(
        what,
        "warn" if left else "ok",
        f"{name} cannot be deleted" if left else "deletes",
        f"delete {name} by hand; rm and set-aside will not work there" if left else "",
    )


def _count(folders: Sequence[str]) -> str:
    shown = [name for name in folders if not name.startswith(".")]
    return f"{len(shown)} data set{'' if len(shown) == 1 else 's'}"


def _writers(remote: Folder) -> tuple[Folder, Folder]:
    """Two views of a remote that know nothing of each other and have both looked at it, as two machines would."""
    views = open_folder(str(remote)), open_folder(str(remote))
    for view in views:
        view.names()
    return views


def _written(what: str, name: str, made: bool, first: Folder, second: Folder) -> Iterator[Finding]:
    """A second writer of the same name, and reading back."""
    again = second.write_once(name, b"second's, other")
    content = second.read(name)
    if not made or again or content != b"probe of the first":
        detail = "conditional put is ignored: two pushers can overwrite each other"
        yield Finding(what, "fail", detail, "push from one machine at a time, or use another server")
    else:
        yield Finding(what, "ok", "conditional put holds: a second writer is refused")
    part = bytearray(5)
    size = second.read_into(name, memoryview(part), offset=9)
    if (size, bytes(part)) == (len(content), content[9:14]):
        yield Finding(what, "ok", "reads back, whole and in part")
    else:
        yield Finding(what, "fail", f"bytes 9 to 14 of {name} came as {bytes(part)!r}", "pull whole arrays, not rows")
