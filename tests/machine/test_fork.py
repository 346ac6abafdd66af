"""A command in a fork: what crashes it, or does not heed its end, is one sentence of the process that watches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# follows a fork, in which the statements argv[1] run, and prints what comes of it
FOLLOWING = """
import os, signal, sys, time
from edgekit.machine import fork
from edgekit.machine.bounds import time_bound
fork.GRACE = 0.1
fork.allow()
try:
    fork.follow("bundle X")
except fork.Followed as done:
    print("followed", done.code)
except Exception as problem:
    print(problem)
else:
    exec(sys.argv[1])
"""


def following(statements: str) -> str:
    done = subprocess.run([sys.executable, "-c", FOLLOWING, statements], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 129, 130, 143])
def test_the_exit_code_of_the_fork_is_told(code: int) -> None:
    assert following(f"print('from the fork'); sys.exit({code})") == f"from the fork\nfollowed {code}"


@pytest.mark.parametrize(
    ("statement", "how"), [("os._exit(127)", "and exits with 127"), ("os.kill(os.getpid(), signal.SIGSEGV)", "with signal 11")]
)
def test_a_crash_is_one_sentence(statement: str, how: str) -> None:
    assert following(statement) == f"running bundle X crashes {how}; do not trust it"


def test_what_does_not_heed_its_end_is_killed() -> None:
    said = following("with time_bound(0.1): time.sleep(1000)")
    assert said.startswith("bundle X takes longer than 0 s, which its size does not explain; do not trust it; if you do, set ")


def test_after_the_end_of_a_bound_nothing_is_killed() -> None:
    assert following("with time_bound(0.1): pass\ntime.sleep(0.4)\nsys.exit(0)") == "followed 0"


def test_a_process_with_other_work_does_not_fork() -> None:
    from edgekit.machine.fork import follow

    before = os.getpid()
    follow("bundle X")
    assert os.getpid() == before


def test_where_no_more_processes_are_allowed_the_command_goes_on_by_itself() -> None:
    nothing = "import os\ndef refuse(): raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = refuse\n"
    command = [sys.executable, "-c", nothing + FOLLOWING, "print('by itself')"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "by itself\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_what_ends_the_watcher_alone_reaches_the_fork(number: signal.Signals) -> None:
    program = f"import signal\nfrom edgekit.machine import stops\nsignal.signal({int(number)}, stops.interrupt)\n{FOLLOWING}"
    statements = "print('ready', flush=True)\ntry: time.sleep(1000)\nexcept KeyboardInterrupt: sys.exit(130)"
    process = subprocess.Popen([sys.executable, "-c", program, statements], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate()[0] == "followed 130\n"


def test_the_fork_ends_with_the_watcher() -> None:
    statements = "print('ready', flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", FOLLOWING, statements], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate(timeout=120)  # the pipe closes when the fork has ended too
