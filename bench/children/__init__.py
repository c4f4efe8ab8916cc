"""Programs that are measured: each prints `ready ...` or a line of JSON, and is started by a figure."""
