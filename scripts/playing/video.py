"""One greedy game as a video: the game's own picture, and beside it what the search thought of it.

┌─────────────────┬───────────────┐
│                 │ name          │
│  colour frame   │ return  value │
│  of the state   │ value curve   │
│                 │ visits        │
└─────────────────┴───────────────┘
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import imageio.v2 as imageio
import numpy as np

from actors.agent import Decision
from actors.environments import Stream, resolve_name
from configs.schema import Config, ConfigError
from muzero.types import Params
from scripts.playing import evaluation
from scripts.playing.video_panel import HEIGHT, Panel

MAX_DECISIONS = 3000
_MAX_FRAME_WIDTH = 800
_MACRO_BLOCK = 16  # H.264 codes blocks of this side; other sizes would be resized, and blurred
_BACKGROUND = (13, 14, 18)
_DEFAULT_FPS = 10.0  # for games that state none
_HOLD_SECONDS = 2.0  # of the last picture


def check(config: Config, path: Path) -> None:
    """Raises `ConfigError` if no video of this run's environment can be made, or not under this
    name.
    """
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"--video {path}: must end in .mp4")
    stream, _, _ = _open_game(config, seed=0)
    stream.close()


def record(config: Config, params: Params, path: Path, *, seed: int) -> None:
    """Plays one greedy game, 3000 decisions of it at most, and writes it to `path`.

    Args:
      config: of the run.
      params: the search average to play with.
      path: an .mp4; missing folders are made, a file that is there is replaced.
      seed: of the game and of the search.

    Raises `ConfigError` if the environment cannot be rendered.
    """
    check(config, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream, env, observation = _open_game(config, seed=seed)
    fps = float(env.metadata.get("render_fps", _DEFAULT_FPS))
    options = dict(
        codec="libx264", quality=8, macro_block_size=_MACRO_BLOCK, ffmpeg_log_level="error"
    )
    try:
        with _quiet_fork(), imageio.get_writer(path, fps=fps, **options) as writer:
            for picture in _pictures(config, params, stream, env, observation, seed):
                writer.append_data(picture)
            for _ in range(round(_HOLD_SECONDS * fps)):
                writer.append_data(picture)
    finally:
        stream.close()


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    """Silences JAX's warning of forks: the one that starts ffmpeg does nothing before it execs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        yield


def _open_game(config: Config, *, seed: int) -> tuple[Stream, Any, np.ndarray]:
    """Returns stream, environment and first observation of a game that is known to render."""
    try:
        stream, env = evaluation.evaluation_stream(config, seed, render=True)
        observation = stream.reset()
        env.render()
    except (
        ImportError,
        TypeError,
        ValueError,
        gymnasium.error.Error,
    ) as error:  # no package, no such mode, no picture
        raise ConfigError(f"--video: {config.env.name} cannot be rendered here: {error}") from error
    return stream, env, observation


def _pictures(
    config: Config, params: Params, stream: Stream, env: Any, observation: np.ndarray, seed: int
) -> Iterator[np.ndarray]:
    """Yields one picture [height, width, 3] per state of the game, the final state included."""
    agent = evaluation.make_agent(config, params, num_environments=1, seed=seed)
    unit = (
        "discounted"
        if config.env.reward_clip is None
        else f"discounted, rewards within {config.env.reward_clip:g}"
    )
    title = resolve_name(config.env.name).removeprefix("ALE/")
    panel = Panel(title, evaluation.action_names(env, stream.spec.num_actions), value_unit=unit)
    is_first, total, is_final = True, 0.0, False
    for num_decisions in range(MAX_DECISIONS + 1):
        decision = agent.decide(observation[None], np.array([is_first]))
        shown = Decision(decision.action[0], decision.policy[0], decision.value[0])
        yield np.hstack([_stage(env.render()), panel.draw(shown, total, num_decisions)])
        if is_final:
            return
        step = stream.step(shown.action)
        observation, is_first, is_final = step.observation, step.is_first, step.episode is not None
        total += step.reward


def _stage(frame: np.ndarray) -> np.ndarray:
    """Returns `frame` [h, w, 3] enlarged to the height of the video, centred on a dark ground."""
    height, width = frame.shape[:2]
    factor = min(HEIGHT / height, _MAX_FRAME_WIDTH / width)
    if factor >= 2:  # small pictures are pixel art: whole factors, sharp edges
        size, interpolation = (width * int(factor), height * int(factor)), cv2.INTER_NEAREST
    else:
        size = round(width * factor), round(height * factor)
        interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(frame, size, interpolation=interpolation)
    stage_width = -(-size[0] // _MACRO_BLOCK) * _MACRO_BLOCK
    stage = np.full((HEIGHT, stage_width, 3), _BACKGROUND, np.uint8)
    top, left = (HEIGHT - size[1]) // 2, (stage_width - size[0]) // 2
    stage[top : top + size[1], left : left + size[0]] = picture
    return stage
