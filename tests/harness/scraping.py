"""Metrics as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from aorist.serve.metrics import METRICS

Scrape = dict[tuple[str, tuple[str, ...]], float]
"""Values by name and values of labels, in the order in which they are documented."""


def scrape(address: str) -> Scrape:
    """Blocks."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, _labels(sample.name, sample.labels)): sample.value for sample in samples}


def _labels(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    documented = METRICS[name].labels if name in METRICS else tuple(labels)
    assert set(documented) == set(labels)
    return tuple(labels[label] for label in documented)
