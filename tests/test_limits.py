"""Is the memory that a batch plans with what the machine and the container's limits leave?"""

from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.errors import ExtractionFailed
from featcache.extraction.limits import available_bytes, available_memory, refuse_full_disk
from featcache.storage.local import LocalFolder

GIB = 2**30
V1 = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes", "cached": "total_inactive_file"}
V2 = {"limit": "memory.max", "used": "memory.current", "cached": "inactive_file"}


def machine(root: Path, groups: str, *, free: int | None = 64 * GIB) -> Path:
    (root / "proc/self").mkdir(parents=True)
    if free is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free // 1024} kB\nBuffers: 1 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def limit(folder: Path, names: dict[str, str], most: int | str, used: int = 0, cached: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names["limit"]).write_text(f"{most}\n")
    (folder / names["used"]).write_text(f"{used}\n")
    if cached is not None:
        (folder / "memory.stat").write_text(f"anon 5\n{names['cached']} {cached}\nslab 7\n")


def test_without_control_groups_it_is_what_the_kernel_would_give(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, "")) == 64 * GIB


def test_where_nothing_is_said_there_is_no_number(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert available_memory(machine(tmp_path, "0::/\n", free=None)) is None


@pytest.mark.parametrize("mount", ["", "unified"])
def test_version_2_limits_a_container_at_the_root_it_sees(tmp_path: Path, mount: str) -> None:
    limit(machine(tmp_path, "0::/\n") / "sys/fs/cgroup" / mount, V2, 8 * GIB, 3 * GIB)
    assert available_memory(tmp_path) == 5 * GIB


def test_a_nested_group_is_limited_by_the_tightest_of_all_above_it(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/user.slice/job_7/step_0\n") / "sys/fs/cgroup"
    limit(root / "user.slice/job_7/step_0", V2, "max", GIB)
    limit(root / "user.slice/job_7", V2, 16 * GIB, 2 * GIB)
    limit(root / "user.slice", V2, 32 * GIB, 30 * GIB)
    assert available_memory(tmp_path) == 2 * GIB
    limit(root / "user.slice", V2, "max", 30 * GIB)
    assert available_memory(tmp_path) == 14 * GIB


def test_version_1_reads_the_memory_controllers_line_and_no_other(tmp_path: Path) -> None:
    groups = "9:name=systemd:/other\n4:memory:/docker/ab12\n3:cpu,cpuacct:/docker\n0::/\n"
    root = machine(tmp_path, groups) / "sys/fs/cgroup/memory"
    limit(root, V1, 9223372036854771712, 40 * GIB)
    limit(root / "docker/ab12", V1, 4 * GIB, GIB)
    limit(root / "other", V1, 1, 0)
    assert available_memory(tmp_path) == 3 * GIB


@pytest.mark.parametrize("line", ["4:memory:/docker/ab12", "4:memory:/../ab12"])
def test_a_path_of_the_host_that_the_container_does_not_see_leaves_the_containers_own_limit(
    tmp_path: Path, line: str
) -> None:
    limit(machine(tmp_path, f"{line}\n") / "sys/fs/cgroup/memory", V1, 4 * GIB, GIB)
    assert available_memory(tmp_path) == 3 * GIB


@pytest.mark.parametrize(("names", "line", "mount"), [(V1, "4:memory:/", "memory"), (V2, "0::/", "")], ids=["v1", "v2"])
def test_cached_files_that_the_kernel_would_drop_count_as_available(
    tmp_path: Path, names: dict[str, str], line: str, mount: str
) -> None:
    limit(machine(tmp_path, f"{line}\n") / "sys/fs/cgroup" / mount, names, 8 * GIB, 8 * GIB - 1, cached=6 * GIB)
    assert available_memory(tmp_path) == 6 * GIB + 1


def test_a_group_beyond_its_limit_leaves_nothing_and_files_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/a\n") / "sys/fs/cgroup"
    limit(root / "a", V2, GIB, 2 * GIB)
    limit(root, V2, "", 0)
    assert available_memory(tmp_path) == 0


def test_a_batch_on_the_cpu_and_the_doctor_plan_with_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.limits
    from featcache.maintenance import doctor

    monkeypatch.setattr(featcache.extraction.limits, "available_memory", lambda: 3 * GIB)
    assert available_bytes("cpu") == 3 * GIB
    assert doctor.available_memory is available_memory


def test_a_full_disk_is_refused_with_the_reserve_and_what_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 40_000_000)
    with pytest.raises(ExtractionFailed) as caught:
        refuse_full_disk(Cache(tmp_path), "minilm over captions", 4_000_000)
    assert str(caught.value) == (
        "minilm over captions needs 4 MB, and 67 MB are kept in reserve for records and others who write; "
        f"{tmp_path} has 40 MB free. Free 32 MB, take fewer --layers, or another --cache"
    )
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 72_000_000)
    refuse_full_disk(Cache(tmp_path), "minilm over captions", 4_000_000)
