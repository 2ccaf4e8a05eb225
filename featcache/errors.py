"""The errors of the cache, one class for each thing that the reader of the message does next."""

from collections.abc import Callable, Collection

from featcache.printing import safe_text


class FeatcacheError(Exception):
    """Base of every error of ours; the message says what was wanted, where, what exists, and the next command.

    It is fit to be printed by whoever catches it, or by Python: names may be anybody's, and libraries quote addresses.
    """

    def __init__(self, message: str) -> None:
        super().__init__(safe_text(message))


class UsageError(FeatcacheError):
    """The request contradicts itself or names something unknown: change the request."""


class LibraryMissing(UsageError):
    """What was asked for needs a library that is not installed: install it as the message says."""


class UnknownEncoder(UsageError):
    """No encoder of that name; the message lists the nearest ones."""


class UndescribedEncoder(UsageError):
    """What an id names cannot be described without guessing: declare it, or name another, as the message says."""


class NoTowers(UndescribedEncoder):
    """The network that an id names has no towers: leave out which one is meant."""


class WeightsMissing(FeatcacheError):
    """Weights, or the library or package that holds them, are not there: get them as the message says."""


class WeightsInvalid(FeatcacheError):
    """Weights are there but are not what the encoder declares: fix the folder or the entry."""


class FeaturesNotCached(FeatcacheError):
    """No array of the cache matches the request: extract or pull.

    Args:
        message: As of every error.
        reword: The message for one who knows the names of the encoders that there are; None if it would be the same.
    """

    def __init__(self, message: str, reword: Callable[[Collection[str]], str] | None = None) -> None:
        super().__init__(message)
        self.reword = reword


class Ambiguous(FeatcacheError):
    """Several arrays match the request; the message lists how they differ."""


class OutdatedRows(FeatcacheError):
    """The arrays of a name are all of older rows than the current ones: extract again, or name one by @digest."""


class Damaged(FeatcacheError):
    """Bytes in the cache are not what was recorded; the message names array and chunk: verify, then extract again."""


class BeyondLimit(Damaged):
    """A file is larger than what it belongs to allows, or than the limits: check where it comes from, or raise one."""


class RemoteFailed(FeatcacheError):
    """A bucket or the Hub could not be reached, refused, or listed what no cache holds: look with featcache doctor."""


class OutputFailed(FeatcacheError):
    """Files could not be written where they were asked for: free space there, or name another place."""


class RootsDiffer(FeatcacheError):
    """Two places hold other bytes for the same digest: keep one with --prefer."""


class NewerFormat(FeatcacheError):
    """The cache was written by a newer featcache: upgrade."""


class ExtractionFailed(FeatcacheError):
    """A row could not be encoded or stored; the message names its id. What was committed stays."""


class Overflow(ExtractionFailed):
    """A feature passes the range of the stored dtype: extract with --dtype float32."""
