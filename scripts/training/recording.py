"""What a session records while it trains: rows of metrics, finished games, a line of progress."""

import collections
import contextlib
from collections.abc import Sequence

import numpy as np

from learner.loop import Counters
from learner.records.episodes import EpisodeLog
from learner.records.metrics import MetricWriter
from learner.records.progress import Progress, ProgressState
from learner.records.run_directory import RunDirectory
from muzero.types import Episode

_NUM_RECENT_GAMES = 100
_MAX_SATURATED = 0.1  # share of value targets beyond the support that is told


class Recording:
    """The records of a run, as the process writes them that stands for it.

    Args:
      directory: of the run.
      counters: at the beginning of the session; what was recorded after them is cut off.
      is_resumed: False for a run that must have no rows yet.
      num_frames: limit of the run, None if it has none.
    """

    def __init__(
        self,
        directory: RunDirectory,
        counters: Counters,
        *,
        is_resumed: bool,
        num_frames: int | None,
    ):
        self._num_frames = num_frames
        self._recent_returns: collections.deque[float] = collections.deque(maxlen=_NUM_RECENT_GAMES)
        self._metrics = MetricWriter(
            directory.path, resume_from_frames=counters.num_frames if is_resumed else None
        )
        self._episodes = EpisodeLog(directory.path, resume_from_frames=counters.num_frames)
        self._progress = Progress()
        self._num_skipped, self._has_warned = counters.num_skipped, False

    def add_games(self, counters: Counters, games: Sequence[Episode]) -> None:
        """Records finished games, which the learner has taken in. Raises NotWritten."""
        self._episodes.write(counters.num_frames, list(games))
        self._recent_returns.extend(game.episode_return for game in games)

    def add_row(
        self, counters: Counters, scalars: dict[str, float], fractions_done: tuple[float, ...]
    ) -> None:
        """Records a row of metrics and shows it. Raises NotWritten.

        Args:
          counters: of the learner now.
          scalars: value by tag, see `learner.records.metrics.DOCUMENTED_TAGS`.
          fractions_done: of each limit of the run.
        """
        self._warn(counters, scalars.get("loss/target_saturated", 0.0))
        num_updates, seconds = counters.num_updates, counters.seconds
        self._metrics.write(
            counters.num_frames, scalars, num_updates=num_updates, wall_seconds=seconds
        )
        self._progress.update(
            ProgressState(
                mean_return=float(np.mean(self._recent_returns)) if self._recent_returns else None,
                num_frames=counters.num_frames,
                total_frames=self._num_frames,
                frames_per_second=scalars["perf/frames_per_second"],
                updates_per_second=scalars["perf/updates_per_second"],
                lag=scalars.get("lag/params_version_mean", 0.0),
                fractions_done=fractions_done,
            )
        )

    def _warn(self, counters: Counters, saturated: float) -> None:
        if counters.num_skipped > self._num_skipped:
            self._num_skipped = counters.num_skipped
            self._progress.say(
                f"warning: {counters.num_skipped} updates skipped since the start of the run, a "
                "loss or gradient was not finite: look at the rewards, lower "
                "optimiser.learning_rate"
            )
        if saturated > _MAX_SATURATED and not self._has_warned:
            self._has_warned = True
            self._progress.say(
                f"warning: {saturated:.0%} of the value targets lie beyond the support and are "
                "clipped: widen support.min_value and support.max_value, or set env.reward_clip"
            )

    def close(self) -> None:
        """Closes all records, even if one raises, and leaves the line of progress standing."""
        with contextlib.ExitStack() as parts:
            for part in (self._progress, self._episodes, self._metrics):
                parts.callback(part.close)


class NoRecording:
    """The records of a process that is not the first of its group: none."""

    def add_games(self, counters: Counters, games: Sequence[Episode]) -> None:
        """Does nothing."""

    def add_row(
        self, counters: Counters, scalars: dict[str, float], fractions_done: tuple[float, ...]
    ) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
