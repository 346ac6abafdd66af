"""Time that passes only where threads wait for it, so that many callers run the same on any machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count

from edgekit.latency.load import Body

MS = 1_000_000


class VirtualTime:
    """A clock of ``edgekit.latency.load``: when all threads wait, it jumps to the first moment that one waits for."""

    def __init__(self) -> None:
        self._now, self._running = 0, 0
        self._waiting: list[tuple[int, int]] = []
        self._awake: set[int] = set()
        self._tickets, self._changed = count(), threading.Condition()

    def now(self) -> int:
        return self._now

    def until(self, moment: int) -> None:
        with self._changed:
            if not self._running:  # the thread that starts the others
                self._now = max(self._now, moment)
                return
            ticket = next(self._tickets)
            heappush(self._waiting, (moment, ticket))
            self._stand_still()
            self._changed.wait_for(lambda: ticket in self._awake)
            self._awake.discard(ticket)

    def work(self, ms: Callable[[], float]) -> Callable[[], None]:
        """A call that takes so long, however many others are made meanwhile."""
        return lambda: self.until(self._now + round(ms() * MS))

    def server(self, ms: Callable[[], float]) -> Callable[[], None]:
        """A call to something that serves one request at a time, in the order in which they come."""
        free = 0

        def call() -> None:
            nonlocal free
            free = max(free, self._now) + round(ms() * MS)
            self.until(free)

        return call

    def together(self, run: Callable[[Sequence[Body]], None], bodies: Sequence[Body]) -> None:
        """``run`` the bodies as threads of this clock."""
        self._running = len(bodies)

        def counted(body: Body) -> Body:
            def whole(stopped: Callable[[], bool]) -> None:
                try:
                    body(stopped)
                finally:
                    with self._changed:
                        self._stand_still()

            return whole

        run([counted(body) for body in bodies])

    def _stand_still(self) -> None:
        self._running -= 1
        if self._running == 0 and self._waiting:
            moment, ticket = heappop(self._waiting)
            self._now, self._running = max(self._now, moment), 1
            self._awake.add(ticket)
            self._changed.notify_all()
