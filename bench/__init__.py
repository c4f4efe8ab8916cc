"""What aorist does, beside the limit measured in the same run. `python -m bench`, or `make bench`."""
