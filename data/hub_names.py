"""Names of data sets: what one of the user's own may be called, hub:ORG/NAME[:CONFIG][@REVISION], and the cache's."""

import re
from dataclasses import dataclass

from featcache.data.errors import DataInvalid

HUB = "hub:"
OWN_NAME = "lower-case letters, digits, '_' and single '-', a letter or digit first"  # "--" is the Hub's
_OWN = re.compile(r"[a-z0-9](?:-?[a-z0-9_])*-?")
_FORM = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^:@]+))?(?:@(?P<revision>[^:@]+))?")


def is_own_name(name: str) -> bool:
    """Whether a data set of the user's own may be called so, by the rule `OWN_NAME`.

    Example:
        >>> [is_own_name(name) for name in ("my-birds_2", "Birds", "org--birds", "-b", "a.b")]
        [True, False, False, False, False]
    """
    return _OWN.fullmatch(name) is not None


@dataclass(frozen=True)
class HubName:
    """A data set on the Hub."""

    repo: str  # "ORG/NAME"
    config: str = ""  # "" for the only one, or the one called default
    revision: str = ""  # branch, tag or commit; "" for main, and where that holds no data, the Hub's own conversion

    @property
    def cached(self) -> str:
        """What the cache calls it: parts joined by "--", which stands in no other name; without the revision.

        Example:
            >>> HubName("Org/My_Photos", "v1.0").cached
            'org--my_photos--v1-0'
        """
        parts = [*self.repo.split("/"), *([self.config] if self.config else [])]
        return "--".join(re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-") for part in parts)


def parse_hub_name(text: str) -> HubName:
    """Parses "hub:ORG/NAME[:CONFIG][@REVISION]".

    Raises:
        DataInvalid: If it has another form.

    Example:
        >>> parse_hub_name("hub:org/photos:de@main")
        HubName(repo='org/photos', config='de', revision='main')
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise DataInvalid(f"{text!r} names no data set on the Hub\n  Wanted: hub:ORG/NAME[:CONFIG][@REVISION]")
    return HubName(match["repo"], match["config"] or "", match["revision"] or "")


def hub_name_of(cached: str) -> str | None:
    """What to type for a data set that the cache calls so, if it is from the Hub, which takes any case; else None.

    Example:
        >>> hub_name_of("org--photos--de"), hub_name_of("my-photos")
        ('hub:org/photos:de', None)
    """
    parts = cached.split("--")
    if len(parts) not in (2, 3):
        return None
    return f"{HUB}{parts[0]}/{parts[1]}" + (f":{parts[2]}" if len(parts) == 3 else "")


def cached_name(text: str) -> str:
    """What the cache calls a data set that is named as it was extracted: a name, "folder:NAME" or "hub:ORG/NAME".

    Raises:
        DataInvalid: If it names none on the Hub, though it begins so.

    Example:
        >>> cached_name("folder:birds"), cached_name("hub:Org/Birds"), cached_name("openmoji")
        ('birds', 'org--birds', 'openmoji')
    """
    return parse_hub_name(text).cached if text.startswith(HUB) else text.removeprefix("folder:")
