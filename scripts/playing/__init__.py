"""Playing with stored parameters: scores, videos, exported agents.

The door for other programs:

    agent = load_agent("runs/RUN")                      # of a run, its last checkpoint
    agent = load_exported_agent("agent.safetensors")    # of two files by `scripts/export.py`
    action = agent.act(observation)                     # agent.reset() between games
    env = load_env("runs/RUN")                          # the environment with the run's settings
"""

from scripts.playing.evaluation import load_agent, load_env
from scripts.playing.exported import load_exported_agent

__all__ = ["load_agent", "load_env", "load_exported_agent"]
