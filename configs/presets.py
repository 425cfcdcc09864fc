"""The presets by name; each lives in a file whose docstring says what to expect of it."""

from types import ModuleType

from configs import atari_cpu, atari_cpu_onpolicy, atari_paper, cartpole, minatar, smoke
from configs.schema import Config

_MODULES: dict[str, ModuleType] = {
    "atari-paper": atari_paper,
    "atari-cpu": atari_cpu,
    "atari-cpu-onpolicy": atari_cpu_onpolicy,
    "minatar": minatar,
    "cartpole": cartpole,
    "smoke": smoke,
}
PRESETS: dict[str, Config] = {name: module.CONFIG for name, module in _MODULES.items()}
DESCRIPTIONS: dict[str, str] = {name: module.__doc__ for name, module in _MODULES.items()}
