"""Benchmarks. Speeds are ratios within one run; `python -m benchmarks` runs all of them."""
