"""`python -m bench`: starts the real servers once, runs every figure beside its limit, prints a table, writes bench/results.json."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime

import grpc
from confluent_kafka import KafkaException

from aorist.errors import AoristError
from bench import load, machine
from bench.figures import FIGURES, Figure
from bench.measure import NotMeasuredError, Outcome
from bench.report import Report
from bench.rig import ROUNDS, Rig, rig
from stack.errors import StackError

AT_MOST_S = {True: 175.0, False: 1620.0}
"""Of a quick and of a full run: what does not fit any more is said not to be measured."""

MOST_TEXT = 500
"""Of why a figure could not be measured."""

SLOWER = 2.0
"""A figure that has less than its usual time divided by this is not begun."""

ROUNDS_SHARE = 2 / 3
"""Of a figure's time: no round begins after it, so that the last one ends in time."""


def main() -> int:
    arguments = _arguments()
    wanted = [figure for figure in FIGURES if not arguments.only or figure.name in arguments.only]
    until = time.monotonic() + AT_MOST_S[arguments.quick]
    try:
        load.program()
        with rig(quick=arguments.quick) as on:
            report = _report(arguments, on, wanted)
            print(_head(on), flush=True)
            for index, figure in enumerate(wanted):
                report.outcomes[figure.name] = _measured(figure, on, _share(wanted[index:], on, until))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{report.table()}")
    report.write_results()
    if arguments.write_docs:
        print(f"\nwritten: {report.write_docs()}")
    return 1 if any(outcome.missing for outcome in report.outcomes.values()) else 0


def _arguments() -> argparse.Namespace:
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(names)}")
    parser.add_argument("--quick", action="store_true", help="within three minutes, of smaller backlogs")
    parser.add_argument("--write-docs", action="store_true", help="make docs/figures.md of this run")
    arguments = parser.parse_args()
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"no figure {name}: there are {', '.join(names)}")
    return arguments


def _head(on: Rig) -> str:
    started = f"stack ready after {on.stack_start_s:.1f} s" if on.stack_start_s else "on servers that ran already"
    pinned = str(on.cores) if on.pinned else f"{on.cores}, but for the databases, which are not ours to pin"
    return f"{started}; {pinned}"


def _report(arguments: argparse.Namespace, on: Rig, wanted: list[Figure]) -> Report:
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **machine.describe(),
        "run": ("quick" if arguments.quick else "full") + f", {_head(on)}",
    }
    command = "make bench" + (" QUICK=1" if arguments.quick else "")
    if arguments.only:
        command += f" ONLY={','.join(arguments.only)}"
    versions = machine.versions() | {"Kafka": "4.3.1", "Cassandra": "5.0.8", "etcd": "3.7.3"}
    return Report(about, versions, command, {}, {figure.name: figure.how for figure in wanted})


def _share(left: list[Figure], on: Rig, until: float) -> float:
    """How many seconds the first of the figures left may take, so that each of the others gets its part of what is left."""
    usual = [figure.seconds[0 if on.quick else 1] for figure in left]
    return usual[0] * (until - time.monotonic()) / sum(usual)


def _measured(figure: Figure, on: Rig, seconds: float) -> Outcome:
    began = time.monotonic()
    if seconds < figure.seconds[0 if on.quick else 1] / SLOWER:
        return Outcome(missing="the run's time was over")
    on.until, on.ends = began + seconds * ROUNDS_SHARE, began + seconds
    try:
        outcome = figure.measure(on)
    except (NotMeasuredError, StackError, AoristError, KafkaException, grpc.RpcError, AssertionError) as error:
        outcome = Outcome(missing=f"{type(error).__name__}: {error}"[:MOST_TEXT])
    if any(line.limit and len(line.ours) < ROUNDS for line in outcome.lines):
        outcome.notes.append(f"fewer than {ROUNDS} rounds: the machine was too slow for more")
    print(f"{figure.name}: {outcome.missing or 'measured'}, {time.monotonic() - began:.0f} s", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
