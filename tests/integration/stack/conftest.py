"""One stack for the whole run. It fails, not skips, where it cannot start: these tests are about real servers."""

from collections.abc import Iterator

import pytest

from stack.cluster import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running
