"""Benchmarks of the ops: one registry of cases, run by ``sparsefl bench`` and by the tests."""
