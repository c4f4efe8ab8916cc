"""One stack for the whole run. It fails, not skips, where it cannot start: these tests are about real servers."""

from collections.abc import Iterator

import pytest

from stack.cluster import Stack
from stack.jvm import QUICK


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack(jvm=QUICK) as running:
        yield running
