"""Every metric is documented as it is, and a process without the extra says what to install."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator, Sequence

import pytest

from aorist.app import _metrics
from aorist.errors import SettingError
from aorist.serve.metrics import METRICS, Source, Value
from aorist.serve.scraping import scraped
from aorist.settings import Settings
from stack.ports import free_ports
from tests.harness.places import ROOT
from tests.harness.scraping import scrape

PAGE = ROOT / "docs" / "reference" / "metrics.md"
GUIDE = ROOT / "docs" / "guides" / "operate.md"


def rows() -> list[str]:
    """Of the table, as they should be."""
    return [
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels) or '-'} | {m.where} | {m.doc} |"
        for m in METRICS.values()
    ]


def test_the_table_has_every_metric_as_it_is() -> None:
    written = [line for line in PAGE.read_text().splitlines() if line.startswith("| `aorist_")]
    assert written == rows(), "\n".join(rows())


def test_the_guide_names_only_metrics_that_exist() -> None:
    known = {name for m in METRICS.values() for name in (m.name, f"{m.name}_sum", f"{m.name}_count")}
    named = set(re.findall(r"\baorist_[a-z_]+\b", GUIDE.read_text()))
    assert named
    assert named <= known


@pytest.mark.parametrize("name", METRICS)
def test_names_follow_conventions(name: str) -> None:
    metric = METRICS[name]
    assert name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(
        r"_(ms|us|bytes_total|count|sum)(_|$)", name
    )  # base units; endings that the format gives itself
    assert metric.doc.endswith(".")


def values() -> Iterator[Value]:
    yield Value("aorist_ready", (), 1)
    yield Value("aorist_shard_keys", ("arms", "0"), 7)
    yield Value("aorist_shard_keys", ("arms", "1"), 8)
    yield Value("aorist_takeovers_total", ("free",), 3)
    yield Value("aorist_checkpoint_duration_seconds", (), 2, 0.5)


def test_what_sources_say_is_what_is_scraped_beside_the_process() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with scraped(address, [values, lambda: [Value("aorist_shard_keys", ("motion", "0"), 9)]]):
        found = scrape(address)
    assert {key: value for key, value in found.items() if key[0].startswith("aorist_")} == {
        ("aorist_ready", ()): 1,
        ("aorist_shard_keys", ("arms", "0")): 7,
        ("aorist_shard_keys", ("arms", "1")): 8,
        ("aorist_shard_keys", ("motion", "0")): 9,
        ("aorist_takeovers_total", ("free",)): 3,
        ("aorist_checkpoint_duration_seconds_count", ()): 2,
        ("aorist_checkpoint_duration_seconds_sum", ()): 0.5,
    }
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    with pytest.raises(OSError, match="refused"):
        scrape(address)  # it has ended with the block


def test_an_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingError, match="metrics_listen: cannot listen on"), scraped(address, []):
            pass


def test_without_an_address_nothing_is_imported_and_without_the_extra_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Sequence[Source] = ()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "aorist.serve.scraping")
    with _metrics(Settings(), nothing):
        assert "aorist.serve.scraping" not in sys.modules
    with pytest.raises(SettingError, match=r"install aorist\[metrics\]"):
        _metrics(Settings(metrics_listen="127.0.0.1:7190"), nothing)
