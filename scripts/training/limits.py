"""When a session ends by itself."""

import time

from configs.schema import StopConfig
from learner.loop import Counters


class Limits:
    """The limits of a run; minutes are of this session and count from the making of this object.

    Args:
      stop: frames and updates of the run, minutes of a session; None does not limit.
    """

    def __init__(self, stop: StopConfig):
        self._stop, self._started = stop, time.monotonic()

    def fractions_done(self, counters: Counters) -> tuple[float, ...]:
        """Returns how much of each limit is used up, 1 at the limit, always in the same order."""
        minutes = (time.monotonic() - self._started) / 60
        limits = (
            (counters.num_frames, self._stop.num_frames),
            (counters.num_updates, self._stop.num_updates),
            (minutes, self._stop.minutes),
        )
        return tuple(done / limit for done, limit in limits if limit is not None)

    def are_reached(self, counters: Counters) -> bool:
        """Returns whether any limit is used up."""
        return max(self.fractions_done(counters), default=0.0) >= 1.0
