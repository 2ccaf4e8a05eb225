"""Names and colours of recipes in figures of many runs."""

from collections.abc import Sequence

from featcache.printing import printable
from featcache.report.figures import theme
from featcache.report.names import shorten
from featcache.report.runs import RunResults
from featcache.report.seeds import recipe_names, varied_settings

COLOURS = 7  # of theme.series; more values of a setting would share one
OTHER = "other"
_LONGEST = 42


def recipe_labels(runs: Sequence[RunResults]) -> dict[str, str]:
    """Label of each run -> a name of its recipe that fits beside a line, unique among them."""
    names: dict[str, str] = {}
    for label, recipe in recipe_names(runs).items():
        name = shorten(printable(recipe, one_line=True), _LONGEST)
        taken = set(names.values())
        again = next(n for n in range(1, len(runs) + 2) if (f"{name} #{n}" if n > 1 else name) not in taken)
        names[label] = f"{name} #{again}" if again > 1 else name
    return names


def most_varied(runs: Sequence[RunResults]) -> tuple[str, list[str]]:
    """The setting that tells most runs apart and still has a colour for each value, and its values."""
    varied = varied_settings(runs)
    fit = [name for name, values in varied.items() if len(set(values)) <= COLOURS]
    name = next(iter(fit or varied), "")
    if not name:
        return "", ["all"] * len(runs)
    values = [shorten(value) for value in varied[name]]
    common = sorted(set(values), key=lambda value: -values.count(value))[: COLOURS if fit else COLOURS - 1]
    return name, [value if value in common else OTHER for value in values]


def colours_of(values: Sequence[str]) -> dict[str, str]:
    """A colour for each value, numbers in their order, the rest in that of the runs; grey for what has none."""
    known = sorted((value for value in dict.fromkeys(values) if value != OTHER), key=numeric)
    colours = {value: theme.series(place)[0] for place, value in enumerate(known)}
    return colours | ({OTHER: theme.OTHER} if OTHER in values else {})


def numeric(text: str) -> tuple[float, str]:
    """A key that puts numbers in their order, before words in theirs."""
    number_of = text.rpartition(" ")[2]
    try:
        return float(number_of), ""
    except ValueError:
        return float("inf"), ""
