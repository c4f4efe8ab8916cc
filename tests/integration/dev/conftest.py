"""One server per transport for each file of tests; those that stop it or set it up otherwise make their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from tests.harness.in_process import Served, served

TRANSPORTS = ("native", "grpcio")
_numbers = count(1)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def dev(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("dev")
    async with served(folder, transport=request.param, checkpoint_interval_s=0.2) as server:
        yield server


@pytest.fixture
def arm() -> str:
    """An arm of one's own."""
    return f"arm-{next(_numbers)}"
