"""Whether an emulator goes on exactly after a restore.

A game is played at random; every `_GAP` frames its state is put into a second emulator, which has
just been reset, and both play the same actions. Their screens, their RAM and the rewards have to
agree at every frame.
"""

from collections.abc import Sequence

import numpy as np

from actors import atari, states
from actors.atari import AtariGame
from configs.schema import ConfigError, EnvConfig

_NUM_RESTORES = 40
_GAP = 80


def compare_games(names: Sequence[str]) -> None:
    """Prints which games differ after a restore, all of ale-py's if none is named.

    Raises `ConfigError` for no game.
    """
    for name in names:
        if atari.find_game(name) is None:
            raise ConfigError(
                f"GAME = {name}: no game of ale-py; near: "
                f"{', '.join(atari.near_ids(name)) or 'none'}"
            )
    found = {}
    for name in names or atari.all_roms():
        found[name] = num_differing(name)
        if found[name]:
            print(f"{name}: differs after {found[name]} of {_NUM_RESTORES} restores", flush=True)
    print(
        f"{len(found) - sum(map(bool, found.values()))} of {len(found)} games agree after every "
        f"restore"
    )


def num_differing(name: str) -> int:
    """Returns after how many of 40 restores a game went on otherwise than it would have."""
    original, other = (_start(name, seed) for seed in (1, 2))
    rng, num = np.random.default_rng(0), 0
    for _ in range(_NUM_RESTORES):
        # or the screen that the state lacks would still be there, from the restore before
        other.reset()
        states.load_emulator(other, states.save_emulator(original))
        other.np_random = states.load_generator(states.save_generator(original.np_random))
        actions = rng.integers(original.action_space.n, size=_GAP)
        num += _play(original, actions) != _play(other, actions)
    return num


def _start(name: str, seed: int) -> AtariGame:
    rom = atari.find_game(name).kwargs["game"]
    every_frame = EnvConfig(
        frame_size=8, action_repeat=1, max_pool_frames=1, max_noops=0, max_episode_frames=0
    )
    game = AtariGame(rom, every_frame, signal_life_loss=False, render=False)
    game.reset(seed=seed)
    return game


def _play(game: AtariGame, actions: np.ndarray) -> list[tuple]:
    """Returns screen, RAM and reward of every frame."""
    seen = []
    for action in actions:
        _, reward, terminated, _, _ = game.step(action)
        if terminated:
            game.reset()
        seen.append((game.emulator.getScreen().tobytes(), game.emulator.getRAM().tobytes(), reward))
    return seen
