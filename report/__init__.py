"""Results drawn: terminal, charts, and one self-contained page, read from run folders alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.report.page.write import write_report as write_report
    from featcache.report.runs import load_runs as load_runs
    from featcache.report.sentences import findings as findings
    from featcache.report.tables import contrast_table as contrast_table
    from featcache.report.tables import retrieval_table as retrieval_table
    from featcache.report.tables import summary_table as summary_table

_HOMES = {
    "contrast_table": "featcache.report.tables",
    "findings": "featcache.report.sentences",
    "load_runs": "featcache.report.runs",
    "retrieval_table": "featcache.report.tables",
    "summary_table": "featcache.report.tables",
    "write_report": "featcache.report.page.write",
}
__all__ = ["contrast_table", "findings", "load_runs", "retrieval_table", "summary_table", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
