"""The benchmark of speed, memory and scale: `benchmarks/run.py` and `benchmarks/compare.py` start it."""
