"""Benchmarks: ``python -m bench NAME [--json] [--quick]``; what each figure measures is in ``bench/README.md``."""
