"""`python -m stack up | down | status | tools`: the servers in the background, for a shell or several programs."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stack import tools
from stack.cluster import Stack
from stack.errors import StackError
from stack.process import Process
from stack.server import STOP_TIMEOUT_S, recorded


def main() -> int:
    arguments = _arguments()
    state = arguments.state or tools.cache_folder() / "stack.json"
    try:
        if arguments.command == "tools":
            return _tools()
        with tools.only_one(state.with_suffix(".lock")):
            if arguments.command == "up":
                return _up(state, arguments.dir, arguments.brokers)
            return _down(state) if arguments.command == "down" else _status(state)
    except StackError as error:
        return _complain(str(error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("--state", type=Path, help="remembers what runs (default: stack.json in the cache folder)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start Kafka, Cassandra and etcd; print where they are as environment lines")
    up.add_argument("--dir", type=Path, help="an empty or new folder for their data (default: a temporary one)")
    up.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="of Kafka (default: %(default)s)")
    commands.add_parser("down", help="end exactly those and delete their folder")
    commands.add_parser("status", help="say which of them run; exit code 1 when not all do")
    commands.add_parser("tools", help="build or fetch everything now; print where it is")
    return parser.parse_args()


def _up(state: Path, folder: Path | None, brokers: int) -> int:
    if state.exists():
        processes = _processes(state)
        ended = [name for name, process in processes.items() if process is None]
        if not ended:
            print("runs already", file=sys.stderr)
            _print_environment(state)
            return 0
        if len(ended) < len(processes):
            return _complain(f"runs without {', '.join(ended)}: end the rest first, with `python -m stack down`")
        _forget(state)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="aorist-stack-"))
    elif folder.exists() and any(folder.iterdir()):
        return _complain(f"{folder} is not empty: `down` would delete what is in it")
    stack = Stack(folder.absolute(), brokers=brokers, outlive=True)
    # Before the first of them starts: whatever happens to us from here on, `down` knows where to look.
    names = [server.name for server in stack.servers]
    text = json.dumps({"folder": str(stack.folder), "servers": names, "environment": stack.environment})
    state.write_text(text)
    stack.start()
    _print_environment(state)
    return 0


def _down(state: Path) -> int:
    if not state.exists():
        print("nothing runs", file=sys.stderr)
        return 0
    running = [process for process in _processes(state).values() if process]
    with ThreadPoolExecutor(max(1, len(running))) as pool:
        list(pool.map(lambda process: process.end(STOP_TIMEOUT_S), running))
    _forget(state)
    return 0


def _status(state: Path) -> int:
    if not state.exists():
        print("nothing runs")
        return 1
    processes = _processes(state)
    for name, process in processes.items():
        print(f"{name}: {f'process {process.pid}' if process else 'ended'}")
    _print_environment(state)
    return 0 if all(processes.values()) else 1


def _tools() -> int:
    wanted: dict[str, Callable[[], str]] = {
        "java": lambda: str(tools.java()),
        "grpcurl": lambda: str(tools.grpcurl()),
        "etcd": lambda: str(tools.etcd()),
        "kafka": lambda: _folder_of(tools.kafka_classpath()),
        "cassandra": lambda: _folder_of(tools.cassandra_classpath()),
    }
    with ThreadPoolExecutor(len(wanted)) as pool:
        for name, where in zip(wanted, pool.map(lambda find: find(), wanted.values()), strict=True):
            print(f"{name}: {where}")
    return 0


def _processes(state: Path) -> dict[str, Process | None]:
    """By name, None for one that has ended or was never launched."""
    known = json.loads(state.read_text())
    found = recorded(Path(known["folder"]))
    return {name: process if (process := found.get(name)) and process.alive() else None for name in known["servers"]}


def _forget(state: Path) -> None:
    shutil.rmtree(json.loads(state.read_text())["folder"], ignore_errors=True)
    state.unlink()


def _print_environment(state: Path) -> None:
    for name, value in json.loads(state.read_text())["environment"].items():
        print(f"{name}={value}")


def _folder_of(classpath: str) -> str:
    return str(Path(classpath.split(":", maxsplit=1)[0]).parent)


def _complain(what: str) -> int:
    print(what, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
