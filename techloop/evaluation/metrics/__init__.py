"""Metrics: pure functions on arrays, each with its definition, range, degenerate case, source."""
