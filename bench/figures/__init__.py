"""What is measured, in the order in which it is: each module has one or more figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.figures import catchup, commands, fold, motion, query, restore, takeover
from bench.measure import Outcome
from bench.rig import Rig


class Figure(NamedTuple):
    """`how`: in a sentence or two. `seconds`: what it takes about, in a quick and in a full run."""

    name: str
    measure: Callable[[Rig], Outcome]
    how: str
    seconds: tuple[float, float]


FIGURES = (
    Figure("unary", commands.unary, commands.HOW_UNARY, (17, 65)),
    Figure("stream", commands.stream, commands.HOW_STREAM, (14, 120)),
    Figure("fold", fold.measure, fold.HOW, (43, 200)),
    Figure("motion", motion.measure, motion.HOW, (50, 235)),
    Figure("query", query.measure, query.HOW, (22, 70)),
    Figure("restore", restore.measure, restore.HOW, (28, 150)),
    Figure("catchup", catchup.measure, catchup.HOW, (40, 110)),
    Figure("takeover", takeover.measure, takeover.HOW, (60, 640)),
)
