"""Metrics in Prometheus' text format over plain HTTP. Imported only where they are asked for: it needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from aorist.errors import SettingError
from aorist.serve.metrics import METRICS, Metric, Source
from aorist.settings import parse_address

Family = CounterMetricFamily | GaugeMetricFamily | SummaryMetricFamily

log = structlog.get_logger()


class Scraped(Collector):
    """Reads `sources` whenever it is collected."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for source in self._sources:
            for name, labels, value, total in source():
                family = families.get(name) or families.setdefault(name, _family(METRICS[name]))
                if isinstance(family, SummaryMetricFamily):
                    family.add_metric(labels, count_value=int(value), sum_value=total)
                else:
                    family.add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Family]:
        """Asked for once, in place of a first look at everything."""
        return map(_family, METRICS.values())


def _family(metric: Metric) -> Family:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "summary": SummaryMetricFamily}
    return kinds[metric.kind](metric.name, metric.doc, labels=metric.labels)  # type: ignore[no-any-return]


@contextmanager
def scraped(address: str, sources: Sequence[Source]) -> Iterator[None]:
    """Serves metrics at `address`, with the process' own memory, CPU and files, for as long as the block lasts.

    Raises SettingError when the address cannot be had.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Scraped(sources))
    host, port = parse_address(address, "metrics_listen")
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except OSError as error:
        raise SettingError(
            f"metrics_listen: cannot listen on {address} ({error}): is another process there? choose another port"
        ) from None
    log.info("metrics", address=f"http://{address}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
