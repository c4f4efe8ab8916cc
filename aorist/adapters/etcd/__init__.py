"""Ownership among processes, by leases and compare-and-swap of etcd."""

from aorist.adapters.etcd.registry import EtcdOwnershipRegistry

__all__ = ["EtcdOwnershipRegistry"]
