"""`aorist topics` and `aorist schema` against a real Kafka and Cassandra: what is missing is made, what must not change does not."""

from __future__ import annotations

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from tests.harness.places import PATIENCE_S
from tests.integration.cli.system import WEEK_MS, System

DAY_MS = 86_400_000


def as_it_is(system: System) -> tuple[int, dict[str, str]]:
    """Partitions and settings of the topic, by Kafka's own client."""
    admin = AdminClient({"bootstrap.servers": system.servers.kafka.address, "log_level": 0})
    described = admin.describe_topics(TopicCollection([system.topic]))[system.topic].result(PATIENCE_S)
    resource = ConfigResource(ResourceType.TOPIC, system.topic)
    entries = admin.describe_configs([resource])[resource].result(PATIENCE_S)
    return len(described.partitions), {name: entry.value for name, entry in entries.items()}


def test_topics_become_what_is_declared(system: System) -> None:
    ran = system.run("topics", "diff")
    declared = f"partitions=4 replicas=1 cleanup.policy=delete retention.ms={WEEK_MS} min.insync.replicas=1"
    assert (ran.code, ran.out.splitlines()[0]) == (1, f"+ {system.topic}: missing, declared {declared}"), ran
    assert system.run("topics", "apply", "--dry-run").code == 0

    ran = system.run("topics", "apply")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "topics created: 1, settings changed: 0"), ran
    partitions, config = as_it_is(system)
    assert (partitions, config["retention.ms"], config["cleanup.policy"]) == (4, str(WEEK_MS), "delete")

    system.retention_ms = DAY_MS
    ran = system.run("topics", "apply")
    assert f"~ {system.topic}: retention.ms is {WEEK_MS}, declared {DAY_MS}\n" in ran.out, ran
    assert (ran.code, as_it_is(system)[1]["retention.ms"]) == (0, str(DAY_MS))

    system.retention_ms = 0
    assert system.run("topics", "apply").code == 0
    assert as_it_is(system)[1]["cleanup.policy"] == "compact"
    ran = system.run("topics", "diff")
    assert (ran.code, ran.out.splitlines()[0]) == (0, f"= {system.topic}: as declared"), ran


def test_another_number_of_partitions_is_refused_and_nothing_is_done(system: System) -> None:
    assert system.run("topics", "apply").code == 0
    system.partitions, system.retention_ms = 8, DAY_MS
    ran = system.run("topics", "apply")
    assert ran.code == 1, ran
    assert f"! {system.topic}: REFUSED: has 4 partitions and is declared with 8." in ran.out
    assert "Declare 4 again; or, to have 8, declare a topic of another name" in ran.out
    assert ran.out.splitlines()[-1] == "nothing was changed"
    partitions, config = as_it_is(system)
    assert (partitions, config["retention.ms"]) == (4, str(WEEK_MS))


def test_roles_refuse_a_topic_with_another_number_of_partitions(system: System) -> None:
    assert system.run("topics", "apply").code == 0
    system.partitions = 8
    for role in ("command-gateway", "materializer"):
        ran = system.run(role, "--port", "0")
        assert ran.code == 1, ran
        assert f"aorist: topic '{system.topic}' has 4 partitions but is declared with 8" in ran.err


def test_topics_that_are_not_declared_are_listed_and_left(system: System) -> None:
    assert system.run("topics", "apply").code == 0
    strange, system.topic = system.topic, f"{system.topic}-v2"
    ran = system.run("topics", "apply")
    assert ran.code == 0, ran
    assert f"  {strange}: not declared, not touched" in ran.out
    assert "__consumer_offsets" not in ran.out


def test_more_replicas_than_there_are_brokers(system: System) -> None:
    ran = system.run("topics", "apply", "--replicas", "3")
    assert ran.code == 1, ran
    assert "cannot have 3 replicas: Kafka has fewer brokers; set --replicas or AORIST_REPLICAS" in ran.err
    assert system.run("topics", "apply").code == 0
    ran = system.run("topics", "apply", "--replicas", "3")
    assert ran.code == 1, ran
    assert f"! {system.topic}: has 1 replicas, not 3." in ran.out
    assert as_it_is(system)[1]["min.insync.replicas"] == "1"  # two in sync of one would stop every append


def test_the_schema_is_made_once(system: System) -> None:
    keyspace = system.environment["AORIST_KEYSPACE"]
    ran = system.run("schema", "apply")
    tables = [f"made table {keyspace}.{table}" for table in ("snapshots", "checkpoints", "quarantine")]
    made = [f"made keyspace {keyspace}", *tables]
    assert (ran.code, ran.out.splitlines()) == (0, made), ran
    ran = system.run("schema", "apply")
    assert (ran.code, ran.out) == (0, f"nothing was missing: keyspace {keyspace} is as it should be\n"), ran
