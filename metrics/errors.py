"""Errors of a metric's input, grouped by what the reader of the message does next."""


class MetricError(ValueError):
    """Anything wrong with what a metric was given; the message says what was wanted and what came."""


class BadShape(MetricError):
    """The input is not a [n, d] array, or two inputs do not have the same rows: pair them first."""


class BadDtype(MetricError):
    """The numbers are of a kind that is not measured (bfloat16, integers): extract or convert to float32."""


class NotFinite(MetricError):
    """A row holds NaN or infinity; the message names the first: drop failed rows by id before measuring."""


class ZeroRow(MetricError):
    """A row has no direction, so it has no cosine; the message names the first."""


class ConstantSpace(MetricError):
    """Every row is the same, so nothing can be compared: the space has collapsed."""


class TooFewRows(MetricError):
    """Fewer rows, or fewer candidates for one row, than the metric needs: lower k or measure more rows."""


class BadChoice(MetricError):
    """An option is out of its range or unknown; the message lists what exists."""


class BackendMissing(MetricError):
    """The library behind a back end is not installed; the message names the package."""
