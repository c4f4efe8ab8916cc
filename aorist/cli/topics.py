"""`aorist topics`: the topics that the project declares, against those that Kafka has."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.logs import set_up_logging
from aorist.settings import Settings

COLOURS = MappingProxyType({"=": None, "+": "green", "~": "yellow", "!": "red", " ": "bright_black"})


@click.group
def topics() -> None:
    """Makes the project's topics in Kafka, and compares them."""


@topics.command
@flags_of("kafka", "replicas", "log_level", "log_format")
@pass_here
def diff(here: Here, /, **flags: object) -> None:
    """Shows what differs between the topics declared and those of Kafka. Exit code 1 if anything does."""
    from aorist.app import open_topics

    declared, settings = here.project.topics(), _settings(here, flags)
    comparison = open_topics(settings).compare(declared)
    _show(comparison.lines())
    if comparison.differs:
        raise click.exceptions.Exit(1)


@topics.command
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@flags_of("kafka", "replicas", "log_level", "log_format")
@pass_here
def apply(here: Here, /, *, dry_run: bool, **flags: object) -> None:
    """Makes Kafka's topics as declared.

    Creates those that are missing, and sets retention, compaction and min.insync.replicas of the others. The number of
    partitions of a topic is for ever: where another is declared, that is refused, and nothing at all is done. Topics that are
    not declared are never touched. Exit code 1 if something was refused, or is still different.
    """
    from aorist.app import open_topics

    declared, settings = here.project.topics(), _settings(here, flags)
    kafka = open_topics(settings)
    comparison = kafka.compare(declared)
    _show(comparison.lines())
    if comparison.refused or dry_run:
        click.echo("nothing was changed" + ("" if comparison.refused else ": --dry-run"))
    else:
        kafka.apply(comparison)
        click.echo(f"topics created: {len(comparison.missing)}, settings changed: {len(comparison.altered)}")
    if comparison.refused or comparison.stuck:
        raise click.exceptions.Exit(1)


def _settings(here: Here, flags: dict[str, object]) -> Settings:
    settings, _ = here.settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    return settings


def _show(lines: Iterable[tuple[str, str]]) -> None:
    for mark, sentence in lines:
        click.secho(f"{mark} {sentence}", fg=COLOURS[mark])
