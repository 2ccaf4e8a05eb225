"""Members of tar files by their places: an archive is indexed once and never unpacked; no name in it reaches a disk."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featcache.data.errors import DataInvalid
from featcache.data.limits import check_data_limit

_PACKED = {b"\x1f\x8b": ".gz", b"BZ": ".bz2", b"\xfd7": ".xz", b"(\xb5": ".zst"}
# ending of a compressed archive -> what unpacks it to a plain one beside it
_UNPACKERS = {
    ".tar.gz": "gunzip", ".tgz": "gunzip", ".tar.zst": "unzstd", ".tar.xz": "unxz", ".tar.bz2": "bunzip2",
}  # fmt: skip
_BLOCK = tarfile.BLOCKSIZE


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
    offset = 0
    try:
        with path.open("rb") as file, tarfile.open(path, "r:") as archive:
            for member, offset in _members(file, archive):  # noqa: B007
                if member is not None:
                    check_data_limit("member", member.size, f"{member.name!r} in {path.name}")
                    members.append(_as_far_as_there(member, length))
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
        return read_from(file, member)


def read_from(archive: BinaryIO, member: Member) -> bytes:
    """The bytes of a member of an open archive."""
    archive.seek(member.start)
    return archive.read(member.size)


def _members(file: BinaryIO, archive: tarfile.TarFile) -> Iterator[tuple[Member | None, int]]:
    """Each member, or None for a folder, and the offset behind it, as far as headers can be read.

    A plain header is read here, more than twice as fast as by the standard library, which any other is left to.
    """
    offset = 0
    while True:
        file.seek(offset)
        member = _plain(file.read(_BLOCK), offset)
        if member is not None:
            offset = member.start + -(-member.size // _BLOCK) * _BLOCK
            yield member, offset
            continue
        header = _other(archive, offset)
        if header is None:
            return
        offset = archive.offset
        yield (None if header.isdir() else _member(header)), offset


def _plain(block: bytes, offset: int) -> Member | None:
    """The member of a header of a regular file with a short name; None of any other block."""
    if len(block) < _BLOCK or block[156:157] not in (b"0", b"\0") or block[257:262] != b"ustar":
        return None
    try:
        stated, size = (int(field.strip(b" \0"), 8) for field in (block[148:156], block[124:136]))
    except ValueError:
        return None
    if sum(block) - sum(block[148:156]) + 8 * 32 != stated:
        return None
    name = block[:100].partition(b"\0")[0]
    # GNU's own format has times where the others have the beginning of a long path
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    if name.endswith(b"/"):
        return None
    return Member(_text(prefix + b"/" + name if prefix else name), offset + _BLOCK, size)


def _other(archive: tarfile.TarFile, offset: int) -> tarfile.TarInfo | None:
    """The header at an offset as the standard library reads it, which it then stands behind; None where it cannot."""
    if offset:
        archive.offset = offset
        archive.firstmember = None  # type: ignore[attr-defined]  # else it is given a second time
    archive.members = []  # type: ignore[misc]  # else it keeps every header in memory
    try:
        header = archive.next()
    except tarfile.ReadError as error:
        if "unexpected end of data" in str(error):  # the last member was cut, and is listed so
            return None
        raise
    if header is None:
        archive.offset = offset
    return header


def _member(header: tarfile.TarInfo) -> Member:
    name = _text(header.name.encode("utf-8", "surrogateescape"))
    if header.isreg() and not header.issparse():
        return Member(name, header.offset_data, header.size)
    kind = "a link" if header.issym() or header.islnk() else "no plain file"
    return Member(name, header.offset_data, 0, f"{kind} within the archive")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _as_far_as_there(member: Member, length: int) -> Member:
    there = max(0, min(member.size, length - member.start))
    if there == member.size:
        return member
    return Member(member.name, member.start, there, f"cut: {there:,} of {member.size:,} bytes are there")


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


def is_packed(name: str) -> bool:
    """Whether a file is called like a compressed shard.

    Example:
        >>> is_packed("00000.tar.gz"), is_packed("00000.tar"), is_packed("train.1.de.gz")
        (True, False, False)
    """
    return name.lower().endswith(tuple(_UNPACKERS))


def packed_error(names: Sequence[str]) -> DataInvalid:
    """The error for compressed shards: which they are, and what unpacks them."""
    first = names[0]
    unpacker = next(unpacker for ending, unpacker in _UNPACKERS.items() if first.lower().endswith(ending))
    what = f"{first} is compressed" if len(names) == 1 else f"{len(names):,} shards are compressed, the first {first}"
    each = "it" if len(names) == 1 else "each"
    return DataInvalid(
        f"{what}; shards are read by offsets\n  To mend: unpack {each} to a plain .tar, as with {unpacker} {first}"
    )


def _unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        packed = _PACKED.get(file.read(2))
    if packed:
        return f"{path.name} is compressed ({packed}); shards are read by offsets\n  To mend: unpack it to a plain .tar"
    return f"{path.name} cannot be read as tar: {error}\n  To mend: get the file again, or take it out of the folder"
