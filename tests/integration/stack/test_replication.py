"""Three brokers: what was acknowledged outlives any one of them."""

from pathlib import Path

from stack.cluster import KafkaCluster
from stack.jvm import QUICK
from tests.integration.stack.clients import consume, create_topic, produce


def test_each_broker_in_turn_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    sent = []
    with KafkaCluster(tmp_path, brokers=3, jvm=QUICK) as kafka:
        create_topic(kafka.address, "kept", replicas=3)
        for broker in kafka.brokers:
            broker.kill()
            value = f"without {broker.name}".encode()
            produce(kafka.address, "kept", value)
            sent.append(value)
            broker.start()
            kafka.wait_in_sync()
        assert consume(kafka.address, "kept", len(sent)) == sent
