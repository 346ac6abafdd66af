"""The process of one command: it takes Ctrl-C, SIGTERM and SIGHUP before heavy imports, then runs the command line."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import NoReturn

from edgekit.machine import stops


def run_process() -> NoReturn:
    """The command line in a process that does nothing else, so that signals end it in order and it may go on in a fork."""
    stops.take(_leave)
    from edgekit.cli.app import main
    from edgekit.machine.fork import allow

    allow()
    main()


def _leave(number: int) -> NoReturn:
    """End at once: the command has not begun. A handler may come between any two lines, so that streams are not touched."""
    stops.released()
    with suppress(OSError):
        os.write(1, stopped_document(stops.words(number), _form()))
    with suppress(OSError):
        os.write(2, b"stopped\n")
    os._exit(stops.exit_code(number))


def _form() -> str:
    return "json" if "--json" in sys.argv else "jsonl" if "--jsonl" in sys.argv else "page"


def stopped_document(by: str, form: str) -> bytes:
    """What stdout has of a command that was stopped ``by`` a signal; nothing but in the forms ``json`` and ``jsonl``."""
    error = {"error": {"kind": "Interrupted", "message": f"stopped by {by}"}}
    if form == "json":
        return f"{json.dumps(error, indent=2)}\n".encode()
    return f"{json.dumps(error, separators=(',', ':'))}\n".encode() if form == "jsonl" else b""
