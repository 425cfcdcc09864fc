"""Atari 2600 games as the paper plays them, on the bare emulator (Grimm et al., NeurIPS 2021, table
1).

One decision, with `action_repeat` 4 and `max_pool_frames` 4:

    emulator frame        n+1    n+2    n+3    n+4
    the same action       act    act    act    act
    raw score              r1  +  r2  +  r3  +  r4      = reward
    grey screen            g1     g2     g3     g4      [210, 160] uint8
    observation      resize(max(g1, g2, g3, g4))        [frame_size, frame_size, 1] uint8

With `max_pool_frames` 2 only g3 and g4 are read.  A repeat stops at the frame that ends the game
and then pools the frames of the window that were played, at least the last one.  The observation of
a reset is a single screen: the no-op start belongs to no decision, and its score is dropped.
"""

import difflib
import re

import ale_py
import cv2
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from configs.schema import EnvConfig

EMULATOR_ENTRY_POINT = "ale_py.env:AtariEnv"
EMULATOR_FRAMES_PER_SECOND = 60


def spelling_key(name: str) -> str:
    """Returns `name` without "ALE/", version, emulator suffix, case and punctuation, to compare
    spellings by.
    """
    name = re.sub(r"^ale/|((noframeskip|deterministic)?-v\d+)$", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", name)


# ale_py registers exactly the games with a single-player mode; loading one of the other four ROMs
# (combat, joust, maze_craze, warlords) ends the process from C++.
_GAMES = {
    spelling_key(spec.id): spec for spec in gymnasium.registry.values() if spec.namespace == "ALE"
}
_OTHER_SPELLINGS = {
    "montezumasrevenge": "montezumarevenge",
    "robottank": "robotank",
    "upanddown": "upndown",
}


def find_game(name: str) -> EnvSpec | None:
    """Returns the game that `name` means, None if it is not a single-player Atari game.

    Args:
      name: any usual spelling: `MsPacman`, `ms_pacman`, `ALE/MsPacman-v5`, `Ms. Pac-Man`,
        `MsPacmanNoFrameskip-v4`.  A version is read as a spelling, its settings are not taken over.

    Returns:
      ale_py's registration: `id` is the canonical name, `kwargs["game"]` the name of the ROM.
    """
    key = spelling_key(name)
    return _GAMES.get(_OTHER_SPELLINGS.get(key, key))


def all_roms() -> list[str]:
    """Returns the names of the ROMs of all games."""
    return sorted({spec.kwargs["game"] for spec in _GAMES.values()})


def near_ids(name: str) -> list[str]:
    """Returns up to three registered ids whose spelling is close to `name`, Atari games or not."""
    known = {
        spelling_key(spec.id): spec.id
        for spec in gymnasium.registry.values()
        if spec.namespace == "ALE" or spec.entry_point != EMULATOR_ENTRY_POINT
    }
    return [known[key] for key in difflib.get_close_matches(spelling_key(name), known, n=3)]


class AtariGame(gymnasium.Env):
    """One game with the paper's preprocessing; rewards are the raw score.

    `info` holds `lives`, `episode_frames` (the emulator's own count, no-ops and in a few games the
    presses of the start buttons included) and `life_lost` (always False unless `signal_life_loss`).
    A lost life ends nothing here: what it means for learning is the reader's business, the game
    goes on.

    `emulator`, `lives` (at the last decision), the generator `np_random` and Gymnasium's wrappers
    are all there is to save of a game (`actors/states.py`).
    """

    def __init__(
        self,
        rom: str,
        settings: EnvConfig,
        *,
        signal_life_loss: bool,
        render: bool,
    ):
        """Starts the emulator; the first game starts with `reset`.

        Args:
          rom: the ROM's name in ale_py, e.g. "ms_pacman".
          settings: of the environment.
          signal_life_loss: whether `info["life_lost"]` reports a lost life.
          render: whether `render` may be called.

        Raises:
          ValueError: the maximum is over no frame, or over more frames than are played.
        """
        if not 1 <= settings.max_pool_frames <= settings.action_repeat:
            raise ValueError(
                f"max_pool_frames is {settings.max_pool_frames}, allowed: 1 to action_repeat "
                f"({settings.action_repeat})"
            )
        self.rom = rom
        self.sticky_action_prob = settings.sticky_action_prob
        self.action_repeat = settings.action_repeat
        self._first_pooled = settings.action_repeat - settings.max_pool_frames
        self._max_noops = settings.max_noops
        self._signal_life_loss = signal_life_loss
        self._rom_path = roms.get_rom_path(rom)
        self._start_emulator(settings.max_episode_frames, settings.sticky_action_prob)
        self._actions = self.emulator.getMinimalActionSet()
        self._pooled = np.empty(self.emulator.getScreenDims(), np.uint8)
        self._screen = np.empty_like(self._pooled)
        self._frame_size = (settings.frame_size, settings.frame_size)
        self.observation_space = spaces.Box(0, 255, (*self._frame_size, 1), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self.render_mode = "rgb_array" if render else None
        frames_per_second = EMULATOR_FRAMES_PER_SECOND / settings.action_repeat
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": frames_per_second}

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts a game and returns its first observation [frame_size, frame_size, 1] and info.

        Args:
          seed: restarts the random streams of no-ops and sticky actions, and the emulator with
            them.
          options: not used.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._load_rom()
        self._start_game()
        self.emulator.getScreenGrayscale(self._pooled)
        self.lives = self.emulator.lives()
        return self._observe(), self._info()

    def step(self, action: int):
        """Plays one decision; see the diagram of the module.

        Args:
          action: index into the game's minimal action set.

        Returns:
          observation [frame_size, frame_size, 1] uint8, raw score, terminated, truncated, info.

        Raises:
          ValueError: `action` is out of range.
        """
        if not 0 <= action < len(self._actions):
            raise ValueError(f"action is {action}, allowed: 0 to {len(self._actions) - 1}")
        reward = self._repeat(self._actions[action])
        terminated = self.emulator.game_over(with_truncation=False)
        truncated = not terminated and self.emulator.game_truncated()
        return self._observe(), reward, terminated, truncated, self._info()

    def get_action_meanings(self) -> list[str]:
        """Returns the names of the game's actions, in order (Gymnasium's name for it)."""
        return [action.name for action in self._actions]

    def render(self) -> np.ndarray:
        """Returns the emulator's newest screen, [210, 160, 3] uint8 RGB.

        Raises:
          ValueError: the environment was made without `render`.
        """
        if self.render_mode is None:
            raise ValueError("the environment was made with render=False")
        return self.emulator.getScreenRGB()

    def _start_emulator(self, max_episode_frames: int, sticky_action_prob: float) -> None:
        # Before the interface exists, or its banner is out.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.emulator = ale_py.ALEInterface()
        self.emulator.setFloat("repeat_action_probability", sticky_action_prob)
        self.emulator.setInt("max_num_frames_per_episode", max_episode_frames)
        self._load_rom()

    def _load_rom(self) -> None:
        # The emulator reads its seed only when it loads a ROM; loading also forgets earlier games.
        self.emulator.setInt("random_seed", int(self.np_random.integers(2**31)))
        self.emulator.loadROM(self._rom_path)

    def _start_game(self) -> None:
        self.emulator.reset_game()
        for _ in range(self.np_random.integers(self._max_noops + 1)):
            self.emulator.act(ale_py.Action.NOOP)
            if self.emulator.game_over():
                self.emulator.reset_game()

    def _repeat(self, action: ale_py.Action) -> float:
        """Plays `action` for one decision, leaves the pooled screen in `_pooled`, returns the
        score.
        """
        ale, reward = self.emulator, 0
        for frame in range(self.action_repeat):
            reward += ale.act(action)
            over = ale.game_over()
            if frame > self._first_pooled:
                ale.getScreenGrayscale(self._screen)
                np.maximum(self._pooled, self._screen, out=self._pooled)
            elif over or frame == self._first_pooled:
                ale.getScreenGrayscale(self._pooled)
            if over:
                break
        return float(reward)

    def _observe(self) -> np.ndarray:
        # A fresh array every time: trajectories keep observations without copying.
        return cv2.resize(self._pooled, self._frame_size, interpolation=cv2.INTER_AREA)[:, :, None]

    def _info(self) -> dict:
        lives, lives_before = self.emulator.lives(), self.lives
        self.lives = lives
        return {
            "lives": lives,
            "episode_frames": self.emulator.getEpisodeFrameNumber(),
            "life_lost": self._signal_life_loss and lives < lives_before,
        }
