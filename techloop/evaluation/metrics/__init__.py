"""Metrics of evaluations: pure functions on arrays, each with its definition, range and source."""
