"""Parity: whether a backend computes the same numbers as the original model."""
