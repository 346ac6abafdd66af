"""Latency: how long a backend takes."""
