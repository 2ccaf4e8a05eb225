"""Errors of data sets, grouped by what the reader of the message does next."""


class DataError(Exception):
    """Anything wrong with a data set; the message says what was wanted, where, and what to do."""


class UnknownDataset(DataError):
    """No data set of that name; the message lists the nearest ones."""


class DataMissing(DataError):
    """Files or packages are not there; the message lists the ways to get them."""


class DataInvalid(DataError):
    """Files are there but contradict their format or each other; the message names the row."""
