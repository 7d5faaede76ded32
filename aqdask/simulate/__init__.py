"""Simulated frames with known defects, for demonstrations, tests and training."""
