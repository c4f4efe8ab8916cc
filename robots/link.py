"""How to send: the options that all commands of this folder have, and what they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click


def link_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options for how to send; the values make a `Link`."""
    some = click.FloatRange(min=0, min_open=True)
    options = (
        click.option(
            "--address",
            envvar="AORIST_ADDRESS",
            default="127.0.0.1:7100",
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="The gateway.",
        ),
        click.option(
            "--in-flight",
            type=click.IntRange(1, 10_000),
            default=16,
            show_default=True,
            metavar="N",
            help="Batches sent ahead of their acknowledgement, at most.",
        ),
        click.option(
            "--ack-timeout",
            "ack_timeout_s",
            type=some,
            default=30,
            show_default=True,
            metavar="S",
            help="Connect again when no acknowledgement comes for so long.",
        ),
        click.option(
            "--give-up-after",
            "give_up_after_s",
            type=click.FloatRange(min=0),
            default=60,
            show_default=True,
            metavar="S",
            help="Stop trying when nothing could be sent for so long.",
        ),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Link:
    """How to send, and how much to tell."""

    address: str
    in_flight: int
    ack_timeout_s: float
    give_up_after_s: float
    quiet: bool
