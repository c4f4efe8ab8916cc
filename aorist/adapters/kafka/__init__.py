"""EventLog on Kafka: the sync client, with a thread for delivery reports and readers that are told what to read."""

from aorist.adapters.kafka.log import KafkaEventLog

__all__ = ["KafkaEventLog"]
