"""Playing with stored parameters: scores, videos, exported agents.

The door for other programs, with the directory of a run or of an agent by `scripts/export.py`:

    agent = load_agent("runs/RUN")        # its last checkpoint
    action = agent.act(observation)       # agent.reset() between games
    decision = agent.think(observation)   # action, policy and value
    env = load_env("runs/RUN")            # the environment with the run's settings
"""

from scripts.playing.saved import load_agent, load_env

__all__ = ["load_agent", "load_env"]
