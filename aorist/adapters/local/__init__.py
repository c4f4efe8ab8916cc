"""Ownership inside one process."""

from aorist.adapters.local.ownership import LocalOwnershipRegistry

__all__ = ["LocalOwnershipRegistry"]
