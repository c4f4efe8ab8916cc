"""The time series that the contract suite writes."""

from __future__ import annotations

from aorist.ports import SeriesSpec

DAY_S = 86_400
BRIEF_S = 2
"""How long windows of the view `brief` are kept."""

SPECS = [
    SeriesSpec("view", 1, DAY_S),
    SeriesSpec("view", 60, 30 * DAY_S),
    SeriesSpec("Other_view", 1, DAY_S),
    SeriesSpec("brief", 1, BRIEF_S),
]
