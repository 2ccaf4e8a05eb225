"""A reader of pickled NumPy arrays in plain containers, which runs nothing that a file names.

Python's own unpickler looks names up and calls them, reserves what a file claims before it has seen it (a memo of
2^32 places, a string of 2^60 bytes), and takes tuples of tuples as keys, whose hashes never end. So the few opcodes
that arrays, dicts, lists, tuples, text, bytes and numbers are written with (protocols 2 to 5) are carried out here, by
functions of `multibench_arrays`: a name is compared with a short list and never imported.
"""

import mmap
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.multibench_arrays import CALLS, NAMES, Name, Unbuilt

MOST_BYTES = 16 * 2**30  # of a file; the largest published one, of CMU-MOSEI, has a few
MOST_STEPS = 4_000_000  # opcodes; arrays take some forty each, and what bounds objects bounds memory
_SHORT = 4_096  # bytes up to which content is copied out of the file
_SLACK = 2**20  # bytes that may be copied beyond those of the file: short texts come again and again


def read_pickle(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a pickle of arrays in plain containers.

    Large arrays are views of the file, which stays mapped as long as they live and must not be changed meanwhile.

    Args:
        path: The file, of protocol 2 to 5.
        most_bytes: Larger files are not read.

    Returns:
        dicts (keys are text, bytes or integers), lists, tuples, text, bytes, numbers and arrays (read-only).

    Raises:
        DataMissing: If there is no such file.
        DataInvalid: If it wants anything else (the message names it), is larger, cut short or contradicts itself.

    Example:
        >>> import pickle, tempfile, numpy
        >>> path = Path(tempfile.mkdtemp()) / "two.pkl"
        >>> _ = path.write_bytes(pickle.dumps({"a": numpy.arange(3)}))
        >>> read_pickle(path)["a"].tolist()
        [0, 1, 2]

    Source:
        The opcodes: Python's `pickletools`; the states of arrays and dtypes: NumPy's `ndarray.__setstate__`.
    """
    if not path.is_file():
        raise DataMissing(f"{path} is not there")
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > most_bytes:
            raise DataInvalid(f"{path} has {size:,} bytes; no more than {most_bytes:,} are read unasked")
        if not size:
            raise DataInvalid(f"{path} is empty: get it again")
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    machine = _Machine(content)
    try:
        return machine.run()
    except DataInvalid as error:
        raise DataInvalid(f"{path}: {error}") from error
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, UnicodeError, struct.error) as error:
        raise DataInvalid(
            f"{path}: not a whole pickle, by its byte {machine.at}: {type(error).__name__}; get it again"
        ) from error


class _Machine:
    """The stack that opcodes work on."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.copied = 0  # characters and items

    def run(self) -> Any:
        for _ in range(MOST_STEPS):
            at, code = self.at, self.take(1)[0]
            if code == ord("."):
                return self.plain(self.stack.pop())
            act = _ACTS.get(code)
            if act is None:
                raise _refused(_opcode(code), at)
            act(self)
        raise DataInvalid(f"more than {MOST_STEPS:,} steps: that is no pickle of arrays")

    def take(self, size: int) -> memoryview:
        """The next bytes; a claim beyond the end of the file is refused before anything is reserved."""
        end = self.at + size
        if end > len(self.content):
            raise DataInvalid(
                f"cut short: byte {self.at} claims {size:,} bytes, {len(self.content) - self.at:,} are left"
            )
        self.at, start = end, self.at
        return self.content[start:end]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        """Up to the next line feed; lines are names and short numbers."""
        head = bytes(self.content[self.at : self.at + _SHORT])
        text, feed, _ = head.partition(b"\n")
        if not feed:
            raise DataInvalid(f"cut short: no line ends after byte {self.at}")
        self.at += len(text) + 1
        return text.decode("latin1")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """What stands above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def count_copies(self, arguments: tuple[Any, ...]) -> None:
        """Bounds what calls copy: one text that is encoded a million times is larger than the file."""
        self.copied += sum(len(each) for each in arguments if isinstance(each, str | list))
        if self.copied > len(self.content) + _SLACK:
            raise DataInvalid(f"unpacks to more than its {len(self.content):,} bytes hold")

    def plain(self, value: Any) -> Any:
        """A value as a container may hold it."""
        if isinstance(value, Name):
            raise _refused(f"{value.name} itself", self.at)
        return self.built(value)

    def built(self, value: Any) -> Any:
        """An array or dtype in place of what stood for it."""
        if not isinstance(value, Unbuilt):
            return value
        if value.value is None:
            raise DataInvalid(f"byte {self.at}: an array without content")
        return value.value


def _refused(what: str, at: int) -> DataInvalid:
    what = re.sub(r"[^\w. -]", "?", what)[:120]
    return DataInvalid(
        f"holds {what} (byte {at}) beside arrays and plain containers, which could run anything; it was not unpickled\n"
        "  Get the file again from where it was published"
    )


def _opcode(code: int) -> str:
    names = {known.code: known.name for known in pickletools.opcodes}
    return f"opcode {names.get(chr(code), code)}"


# --- opcodes


def _pushed(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(read(machine))


def _content(size: int) -> Callable[[_Machine], None]:
    """Bytes, after their number in `size` bytes."""

    def act(machine: _Machine) -> None:
        view = machine.take(machine.number(size))
        machine.push(bytes(view) if len(view) <= _SHORT else view)

    return act


def _text(size: int, encoding: str = "utf-8") -> Callable[[_Machine], None]:
    errors = "surrogatepass" if encoding == "utf-8" else "strict"
    return _pushed(lambda machine: str(machine.take(machine.number(size)), encoding, errors))


def _long(size: int) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        length = machine.number(size)
        if length > 8:
            raise DataInvalid(f"byte {machine.at}: a whole number of {length:,} bytes")
        machine.push(machine.number(length, signed=True))

    return act


def _quoted(machine: _Machine) -> str:
    """Text of protocol 0, in quotes or bare; escapes are not needed by any name."""
    text = machine.line()
    if "\\" in text:
        raise DataInvalid(f"byte {machine.at}: escaped text of protocol 0; write the file anew with protocol 4")
    return text[1:-1] if text[:1] in "'\"" and text[:1] == text[-1:] else text


def _decimal(machine: _Machine) -> int | bool:
    text = machine.line()
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text.removesuffix("L"))


def _protocol(machine: _Machine) -> None:
    if machine.number(1) > 5:
        raise DataInvalid("a newer protocol than 5")


def _frame(machine: _Machine) -> None:
    """A frame says only how much to read at once; it may not claim more than is left."""
    size = machine.number(8)
    machine.take(size)
    machine.at -= size


def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _tuple(count: int | None) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        items = machine.pop_mark() if count is None else [machine.stack.pop() for _ in range(count)][::-1]
        machine.push(tuple(machine.built(item) for item in items))

    return act


def _append(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise _refused(f"items of a {type(target).__name__}", machine.at)
    target.extend(machine.plain(item) for item in items)


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise _refused(f"keys of a {type(target).__name__}", machine.at)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int):  # a tuple of tuples of tuples may have a hash without end
            raise _refused(f"a key of type {type(key).__name__}", machine.at)
        target[key] = machine.plain(value)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set_items(machine, [key, value])


def _list(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.push([])
    _append(machine, items)


def _dict(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.push({})
    _set_items(machine, items)


def _put(read: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def act(machine: _Machine) -> None:
        machine.memo[read(machine)] = machine.stack[-1]

    return act


def _global(machine: _Machine, module: str, name: str, at: int) -> None:
    known = NAMES.get(f"{module}.{name}")
    if known is None:
        raise _refused(f"{module}.{name}", at)
    machine.push(Name(known))


def _named_global(machine: _Machine) -> None:
    at = machine.at - 1
    _global(machine, machine.line(), machine.line(), at)


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise _refused("a global whose name is no text", machine.at)
    _global(machine, module, name, machine.at - 1)


def _instance(machine: _Machine) -> None:
    at = machine.at - 1
    raise _refused(f"{machine.line()}.{machine.line()}", at)


def _reduce(machine: _Machine) -> None:
    arguments, called = machine.stack.pop(), machine.stack.pop()
    act = CALLS.get(called.name) if isinstance(called, Name) else None
    if act is None or not isinstance(arguments, tuple):
        raise _refused(f"a call of {called.name if isinstance(called, Name) else type(called).__name__}", machine.at)
    machine.count_copies(arguments)
    machine.push(act(*arguments))


def _build(machine: _Machine) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if not isinstance(target, Unbuilt) or not isinstance(state, tuple):
        raise _refused(f"a state of a {type(target).__name__}", machine.at)
    machine.count_copies(state)
    target.build(state)


_ACTS: dict[int, Callable[[_Machine], object]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda machine: machine.pop_mark(),
    ord("2"): lambda machine: machine.push(machine.stack[-1]),
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(True),
    0x89: lambda machine: machine.push(False),
    ord("I"): _pushed(_decimal),
    ord("L"): _pushed(_decimal),
    ord("J"): _pushed(lambda machine: machine.number(4, signed=True)),
    ord("K"): _pushed(lambda machine: machine.number(1)),
    ord("M"): _pushed(lambda machine: machine.number(2)),
    0x8A: _long(1),
    0x8B: _long(4),
    ord("F"): _pushed(lambda machine: float(machine.line())),
    ord("G"): _pushed(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    ord("S"): _pushed(_quoted),
    ord("V"): _pushed(_quoted),
    ord("T"): _text(4, "latin1"),
    ord("U"): _text(1, "latin1"),
    0x8C: _text(1),
    ord("X"): _text(4),
    0x8D: _text(8),
    ord("C"): _content(1),
    ord("B"): _content(4),
    0x8E: _content(8),
    0x96: _content(8),
    ord("]"): lambda machine: machine.push([]),
    ord("a"): lambda machine: _append(machine, [machine.stack.pop()]),
    ord("e"): lambda machine: _append(machine, machine.pop_mark()),
    ord("l"): _list,
    ord(")"): lambda machine: machine.push(()),
    ord("t"): _tuple(None),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("}"): lambda machine: machine.push({}),
    ord("s"): _set_item,
    ord("u"): lambda machine: _set_items(machine, machine.pop_mark()),
    ord("d"): _dict,
    ord("p"): _put(lambda machine: int(machine.line())),
    ord("q"): _put(lambda machine: machine.number(1)),
    ord("r"): _put(lambda machine: machine.number(4)),
    0x94: _put(lambda machine: len(machine.memo)),
    ord("g"): _pushed(lambda machine: machine.memo[int(machine.line())]),
    ord("h"): _pushed(lambda machine: machine.memo[machine.number(1)]),
    ord("j"): _pushed(lambda machine: machine.memo[machine.number(4)]),
    ord("c"): _named_global,
    0x93: _stack_global,
    ord("i"): _instance,
    ord("R"): _reduce,
    ord("b"): _build,
}
