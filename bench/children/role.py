"""`role command-gateway|query-gateway|materializer TOPIC [PROJECT]`: a role of aorist, as its command serves it, on a topic of the bench.

PROJECT: the folder of another project than that of this repository.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop

from aorist.app import serve_command_gateway, serve_materializer, serve_query_gateway
from aorist.logs import set_up_logging
from aorist.settings import load_settings
from bench.project import ROOT, VIEW, project_on


def ready(address: str) -> None:
    print(f"ready {address}", flush=True)


async def main(role: str, topic: str, root: Path) -> None:
    settings, _ = load_settings({}, os.environ, {})
    set_up_logging(settings.log_level, settings.log_format)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    project = project_on(topic, root)
    if role == "command-gateway":
        await serve_command_gateway(project, settings, ready, stop)
    elif role == "query-gateway":
        await serve_query_gateway(project, settings, ready, stop)
    else:
        await serve_materializer(project, [VIEW], settings, ready, stop)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else ROOT))
