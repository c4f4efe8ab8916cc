"""Tells of an etcd that is away: when it begins, now and then while it lasts, and when it is over."""

from __future__ import annotations

import time

import structlog

AGAIN_S = 10.0

log = structlog.get_logger()


class Outage:
    """One purpose's view of etcd; `what` says what the purpose means for the reader of the log."""

    def __init__(self, what: str, **facts: object) -> None:
        self._what, self._facts = what, facts
        self.problem = ""
        """What etcd said last; empty while it answers."""
        self._since: float | None = None
        self._told = 0.0

    def goes_on(self, error: Exception) -> None:
        """To be called at every failed attempt."""
        now, self.problem = time.monotonic(), str(error)
        if self._since is None:
            self._since = now
        elif now - self._told < AGAIN_S:
            return
        self._told = now
        log.warning(self._what, error=str(error), away_s=round(now - self._since, 1), **self._facts)

    def is_over(self) -> None:
        """To be called at every answer."""
        self.problem = ""
        if self._since is not None:
            away_s = round(time.monotonic() - self._since, 1)
            log.info("etcd answers again", away_s=away_s, was=self._what, **self._facts)
            self._since = None
