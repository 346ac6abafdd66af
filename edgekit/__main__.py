"""``python -m edgekit``."""

from edgekit.cli.app import run_process

run_process()
