"""``python -m edgekit``."""

from edgekit.cli.process import run_process

run_process()
