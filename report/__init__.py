"""What do the results say? One self-contained page, its figures and tables, read from run folders alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from report.page import write_report as write_report
    from report.runs import load_runs as load_runs
    from report.sentences import findings as findings
    from report.tables import retrieval_table as retrieval_table
    from report.tables import summary_table as summary_table

_HOMES = {
    "findings": "report.sentences",
    "load_runs": "report.runs",
    "retrieval_table": "report.tables",
    "summary_table": "report.tables",
    "write_report": "report.page",
}
__all__ = ["findings", "load_runs", "retrieval_table", "summary_table", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'report' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
