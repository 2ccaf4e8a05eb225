"""Names that tell arrays apart, as short as do."""

from collections.abc import Sequence


def distinct_names(*tries: Sequence[str]) -> list[str]:
    """The first of several ways to name the same things that gives each a name of its own; else the last.

    Example:
        >>> distinct_names(["gpt2", "gpt2"], ["gpt2/0.mean", "gpt2/last.mean"])
        ['gpt2/0.mean', 'gpt2/last.mean']
    """
    return list(next((names for names in tries if len(set(names)) == len(names)), tries[-1]))
