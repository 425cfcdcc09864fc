"""What is done every so many seconds while training."""

import time


class Timer:
    """Rings every `seconds`."""

    def __init__(self, seconds: float):
        self._seconds, self._next = seconds, time.monotonic() + seconds

    def rings(self) -> bool:
        """Returns whether it is time again; the next time is counted from now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Counts the next time from now: what was rung for took a while."""
        self._next = time.monotonic() + self._seconds
