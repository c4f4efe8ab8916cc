"""What a reader of Kafka may hold in memory becomes librdkafka's settings, which it takes as they are."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer

from aorist.adapters.kafka.client import CONSUMER, FETCH_BYTES, fetching
from aorist.settings import SETTINGS, Settings

LEAST, MOST = int(SETTINGS["fetch_memory_mb"].rule.least), int(SETTINGS["fetch_memory_mb"].rule.most)


def test_a_reader_alone_has_what_the_setting_says() -> None:
    assert Settings().fetch_memory_mb * 2**20 == FETCH_BYTES


@pytest.mark.parametrize("budget", [LEAST * 2**20 // 20, LEAST * 2**20, FETCH_BYTES, 2**30, MOST * 2**20])
def test_librdkafka_takes_them(budget: int) -> None:
    """Also for a view among twenty."""
    Consumer({**CONSUMER, **fetching(budget), "group.id": "test"}).close()


def test_all_that_may_be_in_memory_is_within_the_budget() -> None:
    """An answer of small events, unpacked, beside as many as may be waiting; or one of large ones."""
    for budget in (LEAST * 2**20, FETCH_BYTES, 2**30):
        settings = fetching(budget)
        assert settings["fetch.max.bytes"] * 32 + settings["queued.min.messages"] * 400 <= budget
        assert settings["fetch.max.bytes"] + settings["queued.max.messages.kbytes"] * 1024 <= budget
        assert settings["fetch.message.max.bytes"] * 4 <= settings["fetch.max.bytes"]


def test_more_memory_is_never_less_at_a_time() -> None:
    smaller, larger = fetching(LEAST * 2**20), fetching(FETCH_BYTES)
    assert all(smaller[name] < larger[name] for name in smaller)
