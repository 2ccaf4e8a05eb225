"""How a command ends: its exit code, what an interruption leaves, and characters that the terminal lacks."""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from featcache.printing import safe_text

DONE, FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130

_NOTHING = "Nothing was changed."
_GOES_ON = "run the same command again to go on."
_GRAPHS = "No result was written; neighbour graphs that were finished stay in the cache."
_BLOCKS = f"Encoders of blocks that were finished stay: {_GOES_ON}"
AFTER_INTERRUPTION: Mapping[str, str] = MappingProxyType(
    {
        "demo": f"What was extracted and the runs that were finished stay: {_GOES_ON}",
        "datasets": _NOTHING,
        "extract": f"What was committed stays: {_GOES_ON}",
        "cost": "No cost was written.",
        "train": "Nothing of this run is kept.",
        "sweep": f"Runs that were finished stay: {_GOES_ON}",
        "ledger": "The ledger was not written.",
        "embed": f"Embeddings that were written stay: {_GOES_ON}",
        "align": _GRAPHS,
        "grid": _GRAPHS,
        "sample": "No score was written; parts of other shards stay.",
        "curve": _GRAPHS,
        "ceiling": "No result was written.",
        "competence": _GRAPHS,
        "probe": "No result was written.",
        "heads": "No result was written.",
        "advise": "No result was written.",
        "map": "No table was written.",
        "runs": _NOTHING,
        "report": "Page and figures are not whole: run the same command again.",
        "ls": _NOTHING,
        "show": _NOTHING,
        "du": _NOTHING,
        "verify": _NOTHING,
        "repair": f"What was mended stays: {_GOES_ON}",
        "rm": "What was deleted by then is gone; what is left: featcache ls",
        "mv": f"What was renamed stays: {_GOES_ON}",
        "gc": "What was deleted by then is gone; what is left: featcache gc",
        "doctor": _NOTHING,
        "push": f"What arrived stays: {_GOES_ON}",
        "pull": f"What arrived stays: {_GOES_ON}",
        "sync": f"What arrived stays: {_GOES_ON}",
        "export": "No file was written.",
        "import": f"What was imported stays: {_GOES_ON}",
        "encoders": _NOTHING,
        "encoders add": "Your file of encoders is as it was.",
        "emergence": _NOTHING,
        "emergence synthetic": _BLOCKS,
        "emergence together": _BLOCKS,
        "emergence spoken-digits": _BLOCKS,
        "emergence multibench": _BLOCKS,
        "emergence swapped": "No table was written.",
        "emergence perturb": f"What was encoded stays: {_GOES_ON}",
        "emergence perturbed": "No table was written.",
        "emergence graded": f"What was encoded stays: {_GOES_ON}",
    }
)


def interruption() -> str:
    """What the user reads when a command was interrupted: what of its work is kept."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    one_of_group, command = " ".join(words[:2]), "".join(words[:1])
    return f"Interrupted. {AFTER_INTERRUPTION.get(one_of_group) or AFTER_INTERRUPTION.get(command, _NOTHING)}"


def exit_code(error: Exception) -> int:
    """2 where the request itself is wrong and has to be changed, else 1."""
    from featcache.data.errors import UnknownDataset
    from featcache.errors import LibraryMissing, UsageError
    from featcache.metrics.errors import BadChoice

    wrong = isinstance(error, UsageError | UnknownDataset | BadChoice) and not isinstance(error, LibraryMissing)
    return WRONG_REQUEST if wrong else FAILED


def knowing_encoders(error: Exception) -> str:
    """What an error says, where it depends on which encoders there are: the cache's errors do not know them."""
    from featcache.errors import FeaturesNotCached, UsageError

    if not isinstance(error, FeaturesNotCached) or error.reword is None:
        return str(error)
    from featcache.encoders import encoder_specs

    try:
        return error.reword(encoder_specs())
    except UsageError:  # of the user's own entries, which `featcache encoders` shows
        return str(error)


def print_error(message: str) -> None:
    """Prints an error on stderr, whatever names and addresses stand in it."""
    print(safe_text(message), file=sys.stderr)


def keep_log_lines_safe() -> None:
    """Makes what nobody set up logging for, and so goes to stderr, safe to print: ours, and that of other libraries."""
    import logging

    class SafeFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return safe_text(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeFormatter("%(message)s"))


def with_cache(message: str, words: Sequence[str]) -> str:
    """An error's message, its next commands with the `--cache` that this one was typed with: they must meet it, too.

    Args:
        message: What the error says.
        words: What was typed behind the program's name.

    Example:
        >>> with_cache("no b. Run: featcache ls a", ["align", "a", "b", "--cache", "lab"])
        'no b. Run: featcache ls a --cache lab'
    """
    import re
    import shlex

    place = next((word.partition("=")[2] for word in words if word.startswith("--cache=")), None)
    if "--cache" in words[:-1]:
        place = words[words.index("--cache") + 1]
    if place is None:
        return message
    without = "datasets|encoders|report|train --help"
    command = re.compile(rf"featcache (?!{without})[a-z]+\b(?:(?!, or |; |\. [A-Z]).)*")
    lines = message.split("\n")
    for number, line in enumerate(lines):
        before, run, after = line.partition("Run: ")
        if run and "--cache" not in after:
            lines[number] = before + run + command.sub(lambda match: f"{match[0]} --cache {shlex.quote(place)}", after)
    return "\n".join(lines)


def describe_system_error(error: OSError) -> str:
    """An error of the system in one line: which file, and what is wrong with it."""
    import os

    why = os.strerror(error.errno) if error.errno else error.strerror or str(error)
    return f"cannot read or write {error.filename}: {why}" if error.filename else f"cannot read or write: {why}"


# -- characters -------------------------------------------------------------------------------------------------------

_PLAIN = str.maketrans(
    {"→": "->", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "×": "x", "±": "+-", "·": "-", "…": "...", "²": "^2"}
    | {"“": '"', "”": '"', "’": "'", "ρ": "rho", "σ": "sigma", "α": "alpha"}
)


def accept_any_terminal() -> None:
    """Lets output go on where a terminal lacks a character: it gets a plain one in its place, "?" at worst.

    A terminal may be Latin-1 or ASCII; and a file's name that is no text cannot be written in UTF-8 either.
    """
    import codecs

    def plain(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        text = error.object[error.start : error.end].translate(_PLAIN)
        return "".join(character if character.isascii() else "?" for character in text), error.end

    codecs.register_error("plain-characters", plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain-characters")  # pyright: ignore[reportAttributeAccessIssue]
