"""What an environment is at one moment, as named arrays: written into checkpoints, restored bit for
bit.

Exactly restored are the emulator (102 of the 104 games of ale-py 0.12.1, see
`scripts/emulators.py`) and CartPole-v1. Any other environment is refused by name: a state that is
silently incomplete would be worse than none.
"""

from collections.abc import Iterable, Mapping

import ale_py
import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from actors.atari import AtariGame

Arrays = dict[str, np.ndarray]
_OTHER_SCREEN = "in this release of ale-py its emulator may show another screen after a restore"
_INEXACT_GAMES = dict.fromkeys(("tic_tac_toe_3d", "yars_revenge"), _OTHER_SCREEN)
_STICKY = "the emulator does not save the action that sticky actions may repeat"
_WORD_BYTES = 16  # PCG64's state and increment are 128-bit numbers


def nested(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns `arrays` with `prefix/` before every name."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def part(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns what `nested(prefix, ...)` has put into `arrays`."""
    return {
        name.removeprefix(f"{prefix}/"): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}/")
    }


def why_not_saved(env: gymnasium.Env) -> str | None:
    """Returns the reason why the state of `env` cannot be saved exactly, None if it can."""
    inner = env.unwrapped
    if isinstance(inner, AtariGame):
        return _INEXACT_GAMES.get(inner.rom, _STICKY if inner.sticky_action_prob > 0 else None)
    if type(inner) is CartPoleEnv:
        return None
    return (
        f"{type(inner).__name__} has no state that can be saved, as Atari games and CartPole-v1 "
        f"have"
    )


def save_generator(generator: np.random.Generator) -> Arrays:
    """Returns the state of a PCG64 generator."""
    state = generator.bit_generator.state

    def word(number):
        return np.frombuffer(number.to_bytes(_WORD_BYTES, "little"), np.uint8)

    return {
        "state": word(state["state"]["state"]),
        "increment": word(state["state"]["inc"]),
        "half_used": np.array([state["has_uint32"], state["uinteger"]], np.uint32),
    }


def load_generator(arrays: Mapping[str, np.ndarray]) -> np.random.Generator:
    """Returns a generator that goes on where the saved one was."""

    def number(name):
        return int.from_bytes(arrays[name].tobytes(), "little")

    has_uint32, uinteger = (int(x) for x in arrays["half_used"])
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": number("state"), "inc": number("increment")},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return np.random.Generator(bits)


def save_environment(env: gymnasium.Env) -> Arrays:
    """Returns the state of an environment in the middle of a game.

    Raises ValueError if `why_not_saved`.
    """
    _require_saveable(env)
    inner = env.unwrapped
    save = save_emulator if isinstance(inner, AtariGame) else _save_cartpole
    return save(inner) | nested("generator", save_generator(inner.np_random)) | _elapsed_steps(env)


def load_environment(env: gymnasium.Env, arrays: Mapping[str, np.ndarray]) -> None:
    """Puts an environment of the same settings, new or played, into a saved state; ValueError if
    `why_not_saved`.
    """
    _require_saveable(env)
    inner = env.unwrapped
    # Gymnasium's wrappers refuse a step before the first reset; a seed would have a game load its
    # ROM anew
    env.reset()
    (load_emulator if isinstance(inner, AtariGame) else _load_cartpole)(inner, arrays)
    inner.np_random = load_generator(part("generator", arrays))
    for limit, count in zip(time_limits(env), arrays["elapsed_steps"], strict=True):
        limit._elapsed_steps = int(count)


def _require_saveable(env: gymnasium.Env) -> None:
    if reason := why_not_saved(env):
        raise ValueError(reason)


def save_emulator(game: AtariGame) -> Arrays:
    """Returns the state of a game's emulator, and its lives; nothing is refused."""
    emulator = game.emulator.cloneState(include_rng=True).serialize()
    return {"emulator": np.frombuffer(emulator, np.uint8), "lives": np.array(game.lives)}


def load_emulator(game: AtariGame, arrays: Mapping[str, np.ndarray]) -> None:
    """Puts a game's emulator into a saved state."""
    emulator, state = game.emulator, ale_py.ALEState(arrays["emulator"].tobytes())
    emulator.restoreState(state)
    # The state lacks whether a frame was played since the reset, which changes the RAM that follows
    # (Q*bert, Tetris). It lacks the screen too, and a game may leave part of that as it was: a
    # frame from this very state brings most.
    if emulator.getEpisodeFrameNumber() > 0:
        emulator.act(ale_py.Action.NOOP)
    else:
        emulator.reset_game()
    emulator.restoreState(state)
    game.lives = int(arrays["lives"])


def _save_cartpole(env: CartPoleEnv) -> Arrays:
    beyond = env.steps_beyond_terminated
    return {
        "state": np.array(env.state, np.float64),
        "beyond": np.array(-1 if beyond is None else beyond),
    }


def _load_cartpole(env: CartPoleEnv, arrays: Mapping[str, np.ndarray]) -> None:
    beyond = int(arrays["beyond"])
    env.state, env.steps_beyond_terminated = arrays["state"], None if beyond < 0 else beyond


def _elapsed_steps(env: gymnasium.Env) -> Arrays:
    return {
        "elapsed_steps": np.array([limit._elapsed_steps for limit in time_limits(env)], np.int64)
    }


def time_limits(env: gymnasium.Env) -> Iterable[TimeLimit]:
    """Yields the wrappers of `env` that count the steps of a game."""
    while env is not env.unwrapped:
        if isinstance(env, TimeLimit):
            yield env
        env = env.env
