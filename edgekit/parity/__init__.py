"""Parity: whether a backend computes what the original model does."""
