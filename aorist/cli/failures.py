"""What goes wrong, told in one line."""

from __future__ import annotations

import traceback

import click

from aorist.errors import AoristError


class Failed(click.ClickException):
    """Ends the program with one line on stderr."""

    def show(self, file: object = None) -> None:  # noqa: ARG002
        say(self.message)


def say(problem: str) -> None:
    """One line on stderr."""
    click.secho(f"aorist: {problem}", err=True, fg="red")


def sentence(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, AoristError):
        return str(error)
    import grpc  # whoever has made no call, such as `aorist --help`, has not imported it

    if isinstance(error, grpc.RpcError):
        from aorist.cli.client import explained

        return explained(error, "the gateway")
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(sentence(one) for one in _leaves(error)))
    if isinstance(error, OSError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + f"{where}; --debug shows how it came to this"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
