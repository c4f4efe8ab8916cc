"""Tables in Cassandra: what is not ours is refused, what is missing is told; and how the driver is used."""
# ruff: noqa: S608  # keyspaces and tables cannot be bound as values; these have names of our own making

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from cassandra.cluster import Session
from cassandra.protocol import OverloadedErrorMessage
from cassandra.query import SimpleStatement

from aorist.adapters.cassandra import CassandraSnapshotStore, apply_schema
from aorist.adapters.cassandra.cluster import RetryOnce
from aorist.errors import SettingError, StoreUnavailableError
from aorist.ports import LATEST_US, SeriesRows, SeriesSpec, ShardRows, SnapshotRow, WindowRow
from tests.contract.cassandra import cql_client, made_keyspace, new_keyspace, opened
from tests.servers import shared_cassandra


@pytest.fixture
def address() -> str:
    return shared_cassandra().address


@pytest.fixture
def keyspace(address: str) -> str:
    return made_keyspace(address)


@pytest.fixture
def store(address: str, keyspace: str) -> Iterator[CassandraSnapshotStore]:
    with opened(address, keyspace) as store:
        yield store


@pytest.fixture
def cql(address: str) -> Iterator[Session]:
    with cql_client(address) as session:
        yield session


@pytest.fixture
def shard() -> ShardRows:
    return ShardRows("view", 1, uuid4(), 0)


def _row(key: bytes, offset: int, epoch: int = 1) -> SnapshotRow:
    return SnapshotRow(key, b"%s@%d" % (key, offset), offset, epoch)


def _all(store: CassandraSnapshotStore, shard: ShardRows) -> dict[bytes, SnapshotRow]:
    return {row.key: row for piece in store.read_rows(shard) for row in piece}


def test_the_schema_may_be_applied_again(address: str) -> None:
    name = new_keyspace()
    tables = ("snapshots", "checkpoints", "quarantine", "series_arm_motion_1s", "series_Arm_60s")
    made = [f"made keyspace {name}", *(f"made table {name}.{table}" for table in tables)]
    specs = [SeriesSpec("arm_motion", 1, 86_400), SeriesSpec("Arm", 60, 864_000)]
    assert [apply_schema([address], name, 1, specs) for _ in range(2)] == [made, []]


def test_a_missing_keyspace_is_told_and_found_once_it_is_there(address: str, shard: ShardRows) -> None:
    name = new_keyspace()
    store = CassandraSnapshotStore([address], name)
    with pytest.raises(StoreUnavailableError, match="run `aorist schema apply`"):
        store.write_rows(shard, [_row(b"k", 1)])
    apply_schema([address], name, {"datacenter1": 1})
    store._link._refused = None  # not to wait until it looks again
    store.write_rows(shard, [_row(b"k", 1)])
    assert _all(store, shard) == {b"k": _row(b"k", 1)}
    store.close()


def test_the_number_of_buckets_is_read_from_the_table(address: str, shard: ShardRows) -> None:
    name = new_keyspace()
    apply_schema([address], name, 1, buckets=3)
    store = CassandraSnapshotStore([address], name)
    rows = {b"%d" % i: _row(b"%d" % i, i) for i in range(100)}
    store.write_rows(shard, list(rows.values()))
    assert store._link.get().buckets == 3
    assert _all(store, shard) == rows
    assert store.read_row(shard, b"42") == _row(b"42", 42)
    store.close()
    with pytest.raises(SettingError, match="made with 3 buckets, not 16, and keeps that number"):
        apply_schema([address], name, 1)


FOREIGN = (
    "CREATE TABLE {0}.snapshots (view_name text, key text, state blob, offset bigint, PRIMARY KEY (view_name, key))"
)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (["ALTER TABLE {0}.snapshots ADD seen bigint"], r"snapshots is not as aorist makes it: it has seen bigint"),
        (["ALTER TABLE {0}.checkpoints WITH default_time_to_live = 60"], "checkpoints .* its rows vanish after 60 s"),
        (["DROP TABLE {0}.snapshots", FOREIGN], r"snapshots .* it lacks .*key blob.* and it has .*key text"),
    ],
)
def test_a_table_of_another_shape_is_refused(
    address: str, keyspace: str, cql: Session, shard: ShardRows, change: Sequence[str], trouble: str
) -> None:
    for statement in change:
        cql.execute(statement.format(keyspace))
    with pytest.raises(SettingError, match=trouble):
        apply_schema([address], keyspace, 1)
    store = CassandraSnapshotStore([address], keyspace)
    with pytest.raises(StoreUnavailableError, match=trouble):
        store.write_rows(shard, [_row(b"k", 1)])
    store.close()
    assert not list(cql.execute(f"SELECT * FROM {keyspace}.snapshots"))


def test_another_replication_is_refused(address: str, keyspace: str) -> None:
    with pytest.raises(SettingError, match=r"has replication .*SimpleStrategy.*, not .*NetworkTopologyStrategy"):
        apply_schema([address], keyspace, {"datacenter1": 1})


def test_tables_that_are_dropped_meanwhile_are_told(
    store: CassandraSnapshotStore, address: str, keyspace: str, cql: Session, shard: ShardRows
) -> None:
    """Also when others of another number of buckets take their place: rows by the old number would not be found."""
    store.write_rows(shard, [_row(b"k", 1)])
    cql.execute(f"DROP TABLE {keyspace}.snapshots")
    with pytest.raises(StoreUnavailableError):
        store.write_rows(shard, [_row(b"k", 1)])
    apply_schema([address], keyspace, 1, buckets=5)
    store._link._refused = None  # not to wait until it looks again
    store.write_rows(shard, [_row(b"k", 1)])
    assert store.read_row(shard, b"k") == _row(b"k", 1)
    assert store._link.get().buckets == 5


SPEC = SeriesSpec("motion", 1, 3_600)
WINDOW = WindowRow(b"k", 0, b"totals", 0)


def _written(store: CassandraSnapshotStore, topic_id: UUID) -> bool:
    rows = SeriesRows("motion", 1, topic_id, 1)
    store.series().write_windows(rows, [WINDOW])
    return store.series().read_windows(rows, [b"k"], 0, LATEST_US, 10) == {b"k": [WINDOW]}


def test_tables_of_series_are_made_when_a_view_first_has_some(
    store: CassandraSnapshotStore, address: str, keyspace: str
) -> None:
    topic_id = uuid4()
    with pytest.raises(StoreUnavailableError, match="series_motion_1s does not exist: run `aorist schema apply`"):
        _written(store, topic_id)
    with pytest.raises(StoreUnavailableError, match="series_motion_1s does not exist: run `aorist schema apply`"):
        store.series().read_windows(SeriesRows("motion", 1, topic_id, 1), [b"k"], 0, LATEST_US, 10)
    assert apply_schema([address], keyspace, 1, [SPEC]) == [f"made table {keyspace}.series_motion_1s"]
    assert _written(store, topic_id)


def test_another_time_is_set_and_told(store: CassandraSnapshotStore, address: str, keyspace: str, cql: Session) -> None:
    """What was written before keeps its own."""
    apply_schema([address], keyspace, 1, [SPEC])
    topic_ids = [uuid4(), uuid4()]
    assert _written(store, topic_ids[0])
    longer = [SPEC._replace(keep_s=7_200)]
    told = f"altered table {keyspace}.series_motion_1s: rows written from now on are kept 7200 s, not 3600 s"
    assert [apply_schema([address], keyspace, 1, longer) for _ in range(2)] == [[told], []]
    assert _written(store, topic_ids[1])
    left = dict(cql.execute(f"SELECT topic_id, TTL(cell) FROM {keyspace}.series_motion_1s"))
    assert 3_000 < left[topic_ids[0]] <= 3_600
    assert 7_000 < left[topic_ids[1]] <= 7_200
    cql.execute(f"ALTER TABLE {keyspace}.series_motion_1s WITH default_time_to_live = 0")
    assert apply_schema([address], keyspace, 1, longer) == [told.replace("3600 s", "for ever")]


def test_every_window_is_stamped_with_its_position(
    store: CassandraSnapshotStore, address: str, keyspace: str, cql: Session
) -> None:
    apply_schema([address], keyspace, 1, [SPEC])
    alone, several = [_at(0, 7)], [_at(10, 0), _at(11, 2**40), _at(2**18, 3)]
    for rows in (alone, several):
        store.series().write_windows(SeriesRows("motion", 1, uuid4(), 1), rows)
    found = cql.execute(f"SELECT start_us, span, WRITETIME(cell) FROM {keyspace}.series_motion_1s")
    assert sorted(found) == [(0, 0, 8), (10_000_000, 0, 1), (11_000_000, 0, 2**40 + 1), (2**18 * 1_000_000, 1, 4)]


def _at(start_s: int, offset: int) -> WindowRow:
    return WindowRow(b"k", start_s * 1_000_000, b"totals", offset)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (
            ["ALTER TABLE {0}.series_motion_1s ADD seen bigint"],
            "series_motion_1s is not as aorist .* it has seen bigint",
        ),
        (
            [
                "DROP TABLE {0}.series_motion_1s",
                "CREATE TABLE {0}.series_motion_1s (key text PRIMARY KEY, totals blob)",
            ],
            "it lacks build int .* and it has .*key text",
        ),
    ],
)
def test_a_table_of_series_of_another_shape_is_refused(
    store: CassandraSnapshotStore, address: str, keyspace: str, cql: Session, change: Sequence[str], trouble: str
) -> None:
    apply_schema([address], keyspace, 1, [SPEC])
    for statement in change:
        cql.execute(statement.format(keyspace))
    with pytest.raises(SettingError, match=trouble):
        apply_schema([address], keyspace, 1, [SPEC])
    with pytest.raises(StoreUnavailableError, match=trouble):
        _written(store, uuid4())
    store.write_rows(ShardRows("view", 1, uuid4(), 0), [_row(b"k", 1)])  # snapshots do not suffer from it


@pytest.mark.parametrize(
    ("spec", "trouble"),
    [
        (SeriesSpec("a" * 40, 1, 60), "up to 48 of"),
        (SeriesSpec("bewegung_ü", 1, 60), "its table would be series_bewegung_ü_1s"),
        (SeriesSpec("motion", 1, 0), "for 0 s: 1 to 630720000 are possible"),
        (SeriesSpec("motion", 1, 630_720_001), "1 to 630720000 are possible"),
    ],
)
def test_what_cannot_be_a_series_is_refused_before_anything_is_made(spec: SeriesSpec, trouble: str) -> None:
    with pytest.raises(SettingError, match=trouble):
        apply_schema(["127.0.0.1:1"], "aorist", 1, [SPEC, spec])


@pytest.mark.parametrize("address", ["cassandra", "cassandra:", ":9042", "cassandra:port", "cassandra:99999"])
def test_what_cannot_be_a_contact_point_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="HOST:PORT"):
        CassandraSnapshotStore([address], "aorist")


@pytest.mark.parametrize("keyspace", ["", "Fleet", "fleet-1", "1fleet", "x; DROP TABLE y"])
def test_what_cannot_be_a_keyspace_is_refused(keyspace: str) -> None:
    with pytest.raises(SettingError, match="no name for a keyspace"):
        CassandraSnapshotStore(["cassandra:9042"], keyspace)


def test_a_data_center_that_is_not_there_is_told(address: str, keyspace: str, shard: ShardRows) -> None:
    store = CassandraSnapshotStore([address], keyspace, datacenter="moon")
    with pytest.raises(StoreUnavailableError, match="no node is up in data center moon"):
        store.read_checkpoint(shard)
    store.close()


def test_only_what_another_node_can_answer_is_asked_there_and_once() -> None:
    policy, statement = RetryOnce(), SimpleStatement("SELECT", is_idempotent=True)
    overloaded: Any = OverloadedErrorMessage(0x1001, "", None)
    elsewhere, given_back = (policy.RETRY_NEXT_HOST, None), (policy.RETHROW, None)
    assert policy.on_request_error(statement, None, ConnectionError(), 0) == elsewhere
    assert policy.on_request_error(statement, None, ConnectionError(), 1) == given_back
    assert policy.on_request_error(statement, None, overloaded, 0) == given_back
    assert policy.on_request_error(SimpleStatement("INSERT"), None, ConnectionError(), 0) == given_back
    assert policy.on_unavailable(statement, None, 2, 1, retry_num=0) == elsewhere
    assert policy.on_unavailable(statement, None, 2, 1, retry_num=1) == given_back
    assert policy.on_read_timeout(statement, None, 2, 1, data_retrieved=False, retry_num=0) == given_back
    assert policy.on_write_timeout(statement, None, "SIMPLE", 2, 1, retry_num=0) == given_back
