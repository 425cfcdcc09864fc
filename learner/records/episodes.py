"""episodes.jsonl: every whole game the actors finished, as played, in the order the learner took
them in.
"""

import json
from pathlib import Path

from learner.records.run_directory import cut_rows, read_rows, writing
from muzero.types import Episode


class EpisodeLog:
    """Appends finished games to `episodes.jsonl` of a run.

    Args:
      run_dir: of the run.
      resume_from_frames: emulator frames of the restored checkpoint (0 for a new run): games that
        the learner took in after it are cut off, their frames will be played again.
    """

    def __init__(self, run_dir: Path, *, resume_from_frames: int):
        self._path = run_dir / "episodes.jsonl"
        cut_rows(self._path, resume_from_frames)
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, num_frames: int, episodes: list[Episode]) -> None:
        """Appends `episodes`, taken in when the learner had consumed `num_frames` emulator frames.

        Raises NotWritten if the disk is full, say.
        """
        with writing(self._path):
            for episode in episodes:
                self._file.write(
                    json.dumps({"num_frames": num_frames, "episode": list(episode)}) + "\n"
                )
            self._file.flush()

    def close(self) -> None:
        """Closes the file. Raises as `write`."""
        with writing(self._path):
            self._file.close()


def finished_episodes(run_dir: Path) -> list[tuple[int, Episode]]:
    """Returns all finished games, each with the frames consumed when it was taken in.

    Raises as `read_rows`.
    """
    return [
        (row["num_frames"], Episode(*row["episode"]))
        for row in read_rows(run_dir / "episodes.jsonl")
    ]
