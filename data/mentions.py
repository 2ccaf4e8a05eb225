"""Labels of photos by what most of their captions name: who is in them.

Flickr30k has no labels. What at least three of five people call the subject of a photo is a label of the photo, and not
of a caption: no caption alone gives it, though all five together do. So images may be probed for it, captions may not.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from featcache.data.errors import DataInvalid
from featcache.data.views import View

LEAST = 3  # captions that name the subject
_OTHERS = 1  # captions that may name another one beside it
# subject -> words that name it
SUBJECTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "dog": frozenset("dog dogs puppy puppies".split()),
        "man": frozenset("man men guy guys".split()),
        "woman": frozenset("woman women lady ladies".split()),
        "boy": frozenset("boy boys".split()),
        "girl": frozenset("girl girls".split()),
        "child": frozenset("child children kid kids baby toddler toddlers".split()),
        "people": frozenset("people crowd group couple".split()),
    }
)


def subject_of(
    captions: Sequence[str], subjects: Mapping[str, frozenset[str]] = SUBJECTS, *, least: int = LEAST
) -> str:
    """The one subject that captions of a photo agree on; "" where they name several, or none.

    Args:
        captions: Of one photo.
        subjects: Subject -> words that name it.
        least: Captions that must name it. Each other subject stands in at most one.

    Example:
        >>> subject_of(["A dog runs.", "Two dogs.", "The dog and a man.", "A pet.", "Running"])
        'dog'
        >>> subject_of(["A man and his dog.", "A man with a dog.", "Man and dog."])
        ''
    """
    words = [set(re.findall(r"[a-z]+", caption.lower())) for caption in captions]
    counts = {subject: sum(bool(own & names) for own in words) for subject, names in subjects.items()}
    leading = max(counts, key=lambda subject: counts[subject])
    others = max((count for subject, count in counts.items() if subject != leading), default=0)
    return leading if counts[leading] >= least and others <= _OTHERS else ""


def subject_labels(captions: View) -> dict[str, str]:
    """The subject of each group of a view of captions; "" where there is none.

    Args:
        captions: A text view with several captions a group.

    Raises:
        DataInvalid: If it is no text view, or no group has as many captions as have to agree.
    """
    if captions.modality != "text":
        raise DataInvalid(f"view {captions.name!r} is {captions.modality}: subjects are read off texts")
    texts: dict[str, list[str]] = defaultdict(list)
    for row, group in enumerate(captions.groups):
        texts[group].append(captions.read(row))
    most = max(map(len, texts.values()))
    if most < LEAST:
        raise DataInvalid(
            f"view {captions.name!r} has {most} captions a group: {LEAST} or more have to agree on a subject"
        )
    return {group: subject_of(own) for group, own in texts.items()}
