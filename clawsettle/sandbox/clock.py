"""The time of a stand-in, which a test may move on."""

import time

import trio


class SandboxClock:
    """Unix time as trio's clock counts it, plus what was advanced; never goes back."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - trio.current_time()
        self._advanced = trio.Event()

    def now_s(self) -> float:
        """Return the time in Unix seconds."""
        return trio.current_time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Move the time on and wake whom it has come for."""
        self._ahead_s += seconds
        self._advanced.set()
        self._advanced = trio.Event()

    async def sleep_until(self, instant_s: float) -> None:
        """Return once the time has come."""
        while (left_s := instant_s - self.now_s()) > 0:
            with trio.move_on_after(left_s):
                await self._advanced.wait()
