"""Measurements: `make bench`. Each prints a table and writes `benchmarks/results/<name>.json`."""
