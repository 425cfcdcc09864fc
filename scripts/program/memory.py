"""The memory that a run takes for good, told and compared with the machine's before anything
starts.
"""

from pathlib import Path

import psutil

from actors.environments import EnvironmentSpec
from configs.schema import Config, ConfigError
from learner.replay import num_bytes
from scripts.program.assemble import replay_settings

_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GIGABYTE = 1e9


def usable_memory() -> int:
    """Returns the bytes that this machine has, or the container that the program is in."""
    paths = [path for path in map(Path, _CONTAINER_LIMITS) if path.is_file()]
    limits = [text for text in (path.read_text().strip() for path in paths) if text.isdigit()]
    return min([psutil.virtual_memory().total, *map(int, limits)])


def check_replay(
    config: Config, spec: EnvironmentSpec, usable_bytes: int | None = None
) -> str | None:
    """Returns a line on the memory that the replay of one learner process takes, None if there is
    none.

    Raises `ConfigError` if this machine, or one with so many bytes, has less.
    """
    if not config.replay.capacity:
        return None
    settings = replay_settings(config, spec)
    stored = num_bytes(settings)
    is_copied = config.deterministic or config.replay.saved
    needed = stored * (1 + is_copied)
    usable = usable_memory() if usable_bytes is None else usable_bytes
    copy = f", and {stored / _GIGABYTE:.2f} GB while a checkpoint is written" if is_copied else ""
    if needed > usable:
        raise ConfigError(
            f"replay.capacity = {config.replay.capacity}: takes {stored / _GIGABYTE:.2f} GB{copy}; "
            f"this machine has {usable / _GIGABYTE:.2f} GB"
        )
    decisions = settings.decisions_per_stream * settings.num_streams
    return (
        f"replay: {decisions:,} decisions of {settings.num_streams} environments "
        f"take {stored / _GIGABYTE:.2f} GB of memory{copy}"
    )
