"""Starts the real Kafka, Cassandra and etcd from their published jars and sources, without Docker."""
