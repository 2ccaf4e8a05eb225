"""What can go wrong while training or reading a run, grouped by what the reader of the message does next."""

from featcache.errors import FeatcacheError, UsageError


class NotPaired(UsageError):
    """The three feature arrays do not describe the same groups and splits: choose arrays that do."""


class LeaksFound(FeatcacheError):
    """Validation or test groups stand in another split too, and the user wants no run of such: drop them or mend."""


class RunExists(UsageError):
    """Another run already stands in the folder: take another folder or overwrite it."""


class RunMissing(FeatcacheError):
    """There is no run in the folder: train one."""


class RunDamaged(FeatcacheError):
    """A run folder lacks a file or holds one that cannot be read: train it again."""


class TrainingDiverged(FeatcacheError):
    """The loss or the weights stopped being finite: lower the learning rate."""


class EnsembleInvalid(UsageError):
    """An ensemble's shapes, rates or data do not belong together: give as many as there are members."""
