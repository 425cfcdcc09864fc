"""MuZero + past policies as published (Grimm et al., NeurIPS 2021, appendix A.4, tables 1 and 2;
figure 5).

    python scripts/train.py atari-paper --env.name ms_pacman --ray-address auto

Deviations: none that are known. Where the paper is silent the choices are those of
`configs/schema.py` (MuZero's residual network without BatchNorm, support ± 300, H = 32, temperature
1, whole-tree Q normalisation), and a Q range of 0.1 is the smallest that is stretched: scores are
not clipped, and in the games of single points (Pong, Boxing, Breakout) what an action changes is
0.1 to 0.2; with a floor of 1 a search of 25 simulations leaves their policies flat. Policy lag: 96
workers bring 8 sequences each and act on while they wait, so a batch of 96 is 8 to 9 updates old.
Run time: the paper spent about 35,000 TPU-v3 device hours on 57 games × 3 seeds × 2 arms and the
tuning; here it is untested on hardware. Expected score: table 3 of the paper (median
human-normalised 5.03 over 57 games after 500 M frames).
"""

import dataclasses

from configs.schema import Config, SearchConfig, StopConfig

CONFIG = dataclasses.replace(
    Config(), search=SearchConfig(floor=0.1), stop=StopConfig(num_frames=500_000_000)
)
