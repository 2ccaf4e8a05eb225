"""Public names of featcache.metrics and their lazy import."""

from featcache import metrics
from featcache.metrics import METRICS


def test_every_listed_name_loads():
    for name in dir(metrics):
        assert getattr(metrics, name) is not None


def test_every_metric_of_the_table_can_be_imported_by_its_functions_name():
    for name, metric in METRICS.items():
        function = getattr(metric.function, "func", metric.function)
        assert getattr(metrics, function.__name__) is function, name
