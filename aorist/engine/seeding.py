"""The first rows of a build that begins with the snapshots of an older one."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from aorist.engine.shard import Shard
from aorist.errors import QuarantinedError
from aorist.ports import ParkedState, SnapshotRow, SnapshotStore

log = structlog.get_logger()


def seed(shard: Shard, store: SnapshotStore) -> None:
    """Writes rows and checkpoint of `shard`, which has none, from those of the older build that its view names. Blocks.

    After that it is restored as any other. Others may do the same meanwhile, from rows that are newer by then: what is further stays. Where
    the older build has no checkpoint, nothing is written.

    Step 1. Read its checkpoint, before any row: rows written meanwhile can only be newer than it.
    Step 2. Read its parked events.
    Step 3. Read its rows, convert and write them; all are acknowledged.
    Step 4. Make sure that none of its keys is parked, whose events would be in no row; write the checkpoint.

    Raises QuarantinedError, which passes when the keys are free; StoreUnavailableError.
    """
    declared = shard.view.seeded_from
    assert declared is not None
    older = shard.rows._replace(build=declared.build)
    # Step 1.
    checkpoint = store.read_checkpoint(older)
    if checkpoint is None:
        log.warning("nothing to begin with", shard=str(shard.name), build=declared.build)
        return
    # Step 2.
    events = [event for event in store.read_parked(older) if event.state is not ParkedState.RELEASED]
    parked = {event.key: event.offset for event in events}
    count = 0
    # Step 3.
    for page in store.read_rows(older):
        store.write_rows(shard.rows, _converted(shard, page))
        count += len(page)
        for row in page:
            if row.offset >= parked.get(row.key, row.offset + 1):
                del parked[row.key]
    # Step 4.
    if parked:
        raise QuarantinedError(
            f"{shard.name} cannot begin with build {declared.build}, which has {len(parked)} keys parked: replay or skip them "
            f"(`aorist quarantine list --view {shard.view.name}@{declared.build}`)"
        )
    store.write_checkpoint(shard.rows, checkpoint)
    log.info("begun with rows of an older build", shard=str(shard.name), build=declared.build, keys=count)


def _converted(shard: Shard, page: Sequence[SnapshotRow]) -> list[SnapshotRow]:
    assert shard.view.seeded_from is not None
    convert, encode = shard.view.seeded_from.convert, shard.view.codec.encode
    return [row._replace(state=encode(convert(row.state))) for row in page]
