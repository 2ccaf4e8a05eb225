"""Members of tar files by their places: an archive is indexed once and never unpacked; no name in it reaches a disk."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from featcache.data.errors import DataInvalid
from featcache.data.limits import check_data_limit

_PACKED = {b"\x1f\x8b": ".gz", b"BZ": ".bz2", b"\xfd7": ".xz", b"(\xb5": ".zst"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Args:
        name: As the archive has it: text that somebody else wrote, and no path here.
        start: Offset of its bytes.
        size: Bytes of it that are there.
        fault: Why it is not whole; "" if it is.
    """

    name: str
    start: int
    size: int
    fault: str = ""


@dataclass(frozen=True)
class TarIndex:
    """The members of an archive, in its order."""

    members: tuple[Member, ...]
    ends: bool  # whether the mark of an archive's end is there; True too of one that is known to be cut


def index_tar(path: Path) -> TarIndex:
    """Reads the headers of an archive. Folders are passed over; a link or a device is a member with a fault.

    Raises:
        DataInvalid: If it is no plain tar file, a header is damaged (what follows cannot be found), or a member passes
            the limit.
    """
    length = path.stat().st_size
    members: list[Member] = []
    try:
        with tarfile.open(path, "r:") as archive:
            while (header := _next(archive)) is not None:
                archive.members = []  # type: ignore[misc]  # else it keeps every header in memory
                if not header.isdir():
                    members.append(_member(header, length, path))
            offset = archive.offset
    except tarfile.TarError as error:
        raise DataInvalid(_unreadable(path, error)) from error
    cut = bool(members) and members[-1].fault.startswith("cut")
    ended = cut or _is_end(path, offset, length)
    if ended is None:
        last = f" after {members[-1].name!r}" if members else ""
        raise DataInvalid(
            f"{path.name} is damaged at byte {offset:,}{last}: what follows is no member that can be found\n"
            "  To mend: get the file again, or take it out of the folder"
        )
    return TarIndex(tuple(members), ended)


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of a member that are there; none of one that is no plain file, for a decoder to refuse."""
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except tarfile.ReadError as error:
        if "unexpected end of data" in str(error):  # the last member was cut, and is listed so
            return None
        raise


def _member(header: tarfile.TarInfo, length: int, path: Path) -> Member:
    if not header.isreg() or header.issparse():
        kind = "a link" if header.issym() or header.islnk() else "no plain file"
        return Member(header.name, header.offset_data, 0, f"{kind} within the archive")
    check_data_limit("member", header.size, f"{header.name!r} in {path.name}")
    there = max(0, min(header.size, length - header.offset_data))
    cut = f"cut: {there:,} of {header.size:,} bytes are there" if there < header.size else ""
    return Member(header.name, header.offset_data, there, cut)


def _is_end(path: Path, offset: int, length: int) -> bool | None:
    """True where an archive's end is marked at an offset, and nothing follows; False where the file ends; else None."""
    if offset >= length:
        return False
    with path.open("rb") as file:
        file.seek(offset)
        while content := file.read(2**20):
            if content.count(0) < len(content):
                return None
    return True


def _unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        packed = _PACKED.get(file.read(2))
    if packed:
        return f"{path.name} is compressed ({packed}); shards are read by offsets\n  To mend: unpack it to a plain .tar"
    return f"{path.name} cannot be read as tar: {error}\n  To mend: get the file again, or take it out of the folder"
