"""`motion_ours TOPIC EVENTS`: as `fold_ours`, of the view arm_motion. Closed windows stay in memory, encoded."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import uvloop

from aorist.engine.materializer import Materializer
from bench.children.fold_ours import fold

HOUR_S = 3600


def sums(materializer: Materializer) -> Mapping[str, int]:
    """Of all windows of an hour, to be compared."""
    hours = [
        window.totals
        for shard in materializer.shards.values()
        for entry in shard.entries.values()
        for window in entry.state.windows.open()
        if window.window_s == HOUR_S
    ]
    return {
        "moving_us": sum(totals.moving_us for totals in hours),
        "still_us": sum(totals.still_us for totals in hours),
        "axes_moving_us": sum(sum(totals.moving_axes.values()) for totals in hours),
        "axes_still_us": sum(sum(totals.still_axes.values()) for totals in hours),
    }


if __name__ == "__main__":
    uvloop.run(fold("arm_motion", sys.argv[1], int(sys.argv[2]), sums))
