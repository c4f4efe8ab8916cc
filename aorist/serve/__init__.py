"""The servers that run what role folders declare: gateways and workers."""
