"""What is played with: the checkpoints of a run or an exported agent, by the path of its folder."""

from pathlib import Path
from typing import NamedTuple

from actors.agent import Agent
from actors.environments import make_environment
from configs.schema import Config, ConfigError
from configs.serialise import from_dict
from learner.records.run_directory import RunDirectory
from muzero.types import Params
from scripts.playing import evaluation, exported


class Saved(NamedTuple):
    """An agent on disk. Scores go to `evaluations/` of its folder."""

    folder: Path
    config: Config
    run: RunDirectory | None  # None: it was exported

    def load_params(self, checkpoint: int | str) -> tuple[Params, int]:
        """Returns the search average and its number of updates.

        Args:
          checkpoint: "latest", and of a run "best" or a number of updates too.

        Raises ConfigError, and like `evaluation.load_params`.
        """
        if self.run is not None:
            return evaluation.load_params(self.run, checkpoint)
        if checkpoint != "latest":
            raise ConfigError(
                f"checkpoint = {checkpoint}: {self.folder} is an exported agent, it has only latest"
            )
        return exported.read_params(self.folder)


def open_saved(path: str | Path) -> Saved:
    """Returns the agent in a folder. Raises `RunDirectoryError` if it holds none."""
    folder = Path(path).absolute()
    if exported.is_exported(folder):
        return Saved(folder, exported.read_config(folder), None)
    run = RunDirectory.open(folder)
    return Saved(run.path, from_dict(run.read_config()), run)


def load_agent(path: str | Path, checkpoint: int | str = "latest") -> Agent:
    """Returns the greedy agent of a run or an exported one: `load_agent(path).act(observation)`,
    `.reset()` between games.

    Args:
      path: of the run's directory or the exported agent's.
      checkpoint: "latest", and of a run "best" or a number of updates too.
    """
    saved = open_saved(path)
    params, _ = saved.load_params(checkpoint)
    return evaluation.make_agent(saved.config, params, num_environments=1, seed=0)


def load_env(path: str | Path):
    """Returns the environment of a run or an exported agent with the run's own settings, as
    evaluated: lives are ignored.
    """
    return make_environment(open_saved(path).config.env, training=False)
