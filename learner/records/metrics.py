"""What a run records while it trains: metrics.jsonl and TensorBoard.

metrics.jsonl is the record: a row is on disk when `write` returns, and a resume cuts it exactly at
the checkpoint.  TensorBoard shows the same tags over emulator frames.

Of several learner processes the first one writes: losses are of the whole batch, `search/*`,
`lag/*` and what `perf/*` says of feed and workers are of that process and its own actors.
"""

import contextlib
import json
import math
import re
from pathlib import Path

from learner.records.run_directory import cut_rows, writing
from learner.records.tensorboard_events import Board

# Events may be torn or lost where a whole machine died; on a resume the last rows of metrics.jsonl
# are written to TensorBoard once more, which closes such a gap.
_NUM_REPLAYED_ROWS = 100

_KL = "as KL: cross-entropy minus the entropy of the target (nats)"
DOCUMENTED_TAGS: dict[str, str] = {
    "episode/return": "score of whole games finished since the last row, unclipped, mean (raw "
    "reward)",
    "episode/length": "length of those games, mean (decisions)",
    "loss/total": "the loss that is minimised, weighted and with target entropies (nats)",
    "loss/reward": f"reward loss, weighted sum over k, {_KL}",
    "loss/value": f"value loss, weighted sum over k, {_KL}",
    "loss/policy": f"policy loss, weighted sum over k, {_KL}",
    "loss/past": f"past-policy loss, weighted sum over k, mean over stored heads, {_KL}",
    "loss/return": "policy-gradient loss of the taken actions, weighted sum over k (no KL)",
    "loss/return_k{k}": "the same of imagined step k = 0..K alone, unweighted (no KL)",
    "loss/entropy": "minus the policy's entropy, weighted sum over k (nats)",
    "loss/entropy_k{k}": "the same of imagined step k = 0..K alone, unweighted (nats)",
    "loss/reward_k{k}": f"reward loss of imagined step k = 1..K alone, unweighted, {_KL}",
    "loss/value_k{k}": f"value loss of imagined step k = 0..K alone, unweighted, {_KL}",
    "loss/policy_k{k}": f"policy loss of imagined step k = 0..K alone, unweighted, {_KL}",
    "loss/past_k{k}": f"past-policy loss of imagined step k = 0..K alone, unweighted, {_KL}",
    "loss/target_saturated": "value targets beyond the categorical support (fraction)",
    "value_buffer/filled": "past prediction heads stored (count)",
    "value_buffer/age_mean": "age of the stored heads, mean (updates)",
    "value_buffer/rho_mean": "clipped V-trace ratio of past policy to behaviour, mean over heads "
    "and decisions",
    "value_buffer/rho_clipped_fraction": "V-trace ratios above the clip (fraction)",
    "value_buffer/overlap": "sum over actions of min(search policy, past policy), mean over heads "
    "and states (0 to 1)",
    "value_buffer/overlap_newest": "the same of the newest head alone (0 to 1)",
    "value_buffer/overlap_oldest": "the same of the oldest head alone (0 to 1)",
    "value_buffer/explained_variance": "V-trace targets of the heads explained by their values (1 "
    "is all, 0 none)",
    "advantage/mean_square": "square of the returns of taken actions less the search values, mean",
    "search/policy_entropy": "entropy of the search policy at the root, mean (nats)",
    "search/depth": "depth of the search tree, mean over searches (imagined steps)",
    "search/q_range": "highest minus lowest Q in the search tree, mean (raw return)",
    "search/unvisited_fraction": "root actions without a visit (fraction)",
    "search/root_value_minus_network_value": "root value after the search minus the network's, "
    "mean (raw return)",
    "optimiser/gradient_norm": "global norm of the gradient before clipping",
    "optimiser/update_norm": "global norm of the step taken by the parameters",
    "optimiser/learning_rate": "learning rate of the last updates",
    "optimiser/skipped": "updates skipped because a number was not finite, since the start of the "
    "run (count)",
    "perf/frames_per_second": "emulator frames consumed by the learner per second",
    "perf/updates_per_second": "updates per second",
    "perf/learner_wait_fraction": "time the learner waited for data (fraction)",
    "perf/feed_wait_fraction": "time the feed's thread waited for rollouts (fraction)",
    "perf/feed_copy_fraction": "time the feed's thread stacked batches and handed them to the "
    "devices (fraction)",
    "perf/batches_ready": "batches on the devices that the learner has not taken (count, at the "
    "end of the row)",
    "perf/rollouts_waiting": "rollouts that the feed has not taken (count, at the end of the row)",
    "perf/compilations": "programs compiled since the start of the process (count)",
    "perf/sequences_dropped": "sequences lost with dead workers, since the start of the process "
    "(count)",
    "lag/params_version_mean": "age of the parameters that searched the trained states, mean "
    "(updates)",
    "lag/params_version_max": "age of the oldest such parameters in a batch (updates)",
    "lag/sequences_dropped": "sequences older than learner.max_lag, since the start of the process "
    "(count)",
    "replay/decisions": "real decisions stored (count, at the end of the row)",
    "replay/starts": "start states that may be drawn (count, at the end of the row)",
    "replay/ratio": "start states learned from for each decision beyond replay.min_decisions, so "
    "far",
    "replay/age_mean": "age of the parameters that searched the start states drawn, mean (updates)",
}


def documented_tag(tag: str) -> str | None:
    """Returns the entry of DOCUMENTED_TAGS that covers `tag` (`loss/value_k3` → `loss/value_k{k}`),
    or None.
    """
    pattern = re.sub(r"_k\d+$", "_k{k}", tag)
    return pattern if pattern in DOCUMENTED_TAGS else None


class MetricWriter:
    """Appends rows to metrics.jsonl and the same tags to tensorboard/.

    Args:
        run_dir: of the run.
        resume_from_frames: None for a new run, which must have no rows (FileExistsError); on a
          resume the
            emulator frames of the restored checkpoint: rows beyond it are cut from both records.

    Raises NotWritten if the disk is full, say.
    """

    def __init__(self, run_dir: str | Path, *, resume_from_frames: int | None):
        self._path, board = Path(run_dir) / "metrics.jsonl", Path(run_dir) / "tensorboard"
        rows = [] if resume_from_frames is None else cut_rows(self._path, resume_from_frames)
        if resume_from_frames is None and self._path.exists() and self._path.stat().st_size > 0:
            raise FileExistsError(f"{self._path} has the rows of another run")
        replayed = rows[-_NUM_REPLAYED_ROWS:]
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
            self._board = Board(
                board, None if resume_from_frames is None else _purge_step(replayed)
            )
            for row in replayed:
                self._write_board(row)

    def write(
        self, num_frames: int, scalars: dict[str, float], *, num_updates: int, wall_seconds: float
    ) -> None:
        """Writes one row; it is with the operating system, safe from a kill, when this returns.

        Args:
            num_frames: emulator frames consumed.
            scalars: value by tag. NaN and infinities become null, as JSON knows neither;
              TensorBoard gets a NaN.
            num_updates: updates done.
            wall_seconds: seconds of training over all sessions.

        Raises NotWritten if the disk is full, say.
        """
        values = {
            tag: float(value) if math.isfinite(value) else None for tag, value in scalars.items()
        }
        row = {
            "num_frames": int(num_frames),
            "num_updates": int(num_updates),
            "wall_seconds": float(wall_seconds),
        }
        with writing(self._path):
            self._file.write(json.dumps(row | values, allow_nan=False) + "\n")
            self._file.flush()
            self._write_board(row | values)

    def close(self) -> None:
        """Closes both records. Raises as `write`."""
        with writing(self._path), contextlib.closing(self._board):
            self._file.close()

    def _write_board(self, row: dict) -> None:
        tags = row.keys() - {"num_frames", "num_updates", "wall_seconds"}
        self._board.write(
            row["num_frames"], {tag: math.nan if row[tag] is None else row[tag] for tag in tags}
        )


def _purge_step(replayed: list[dict]) -> int:
    return replayed[0]["num_frames"] if replayed else 0


class MeanAccumulator:
    """Means of scalars that come in at different rates."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: dict[str, float]) -> None:
        """Adds one observation of each tag; a tag may be absent from any of them."""
        for tag, value in scalars.items():
            self._sums[tag] = self._sums.get(tag, 0.0) + float(value)
            self._counts[tag] = self._counts.get(tag, 0) + 1

    def pop(self) -> dict[str, float]:
        """Returns the mean of each tag over its own observations, and forgets them."""
        means = {tag: total / self._counts[tag] for tag, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
