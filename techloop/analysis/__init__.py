"""Evaluation: each metric a pure function on arrays, and one function a stage to write it."""
