"""MuZero + past policies as published (Grimm et al., NeurIPS 2021, appendix A.4, tables 1 and 2;
figure 5).

    python scripts/train.py atari-paper --env.name ms_pacman --ray-address auto

Deviations: none that are known, but choices where the paper is silent or can be read in two ways,
each with the field that changes it:
* An imagined step weighs 1/K in every loss, a real one 1, as in MuZero (its appendix G), so that
  the share of the model does not grow with K; eq. 46 sums over k without weights. No field.
* The past-policy loss is the mean over the stored heads, times 0.25: "the same value loss for each
  past value function" could be a sum, 128 times as much, which would drown the other losses and
  grow while the buffer fills. `loss.past_weight` 32 is the sum once it is full.
* The target average is in table 2 without a word on its use. It gives the latents of V-trace and
  the heads that are stored, so that both move slowly; in plain MuZero it serves nothing.
  `learner.target_average_rate`, `loss.past_latents`.
* V-trace has the λ of TD(λ), 0.8, as both are of one length of trace (`loss.td_lambda`, which
  changes both), and the clip 1 that it was published with (`loss.past_clip`); the trace is clipped
  at 1 in any case. π_i is the stored prior: a search for each head would cost 128 searches a state.
* The root value of a search is mctx's, which counts the network's raw value as one visit among
  26; MuZero's pseudocode leaves it out. No field.
* The temperature stays 1: MuZero lowers it on a schedule over its run, this paper names none.
  `search.temperature`.
* 30 frames are 30 observed states, one every 4 emulator frames, so 29 decisions; 20 of
  the states start an unroll. `actors.sequence_length`, `actors.sequence_overlap`.
* MuZero's residual network without BatchNorm, support ± 300, H = 32 and whole-tree Q normalisation
  are the defaults of `configs/schema.py`; a Q range of 0.1 is the smallest that is stretched
  (`search.floor`): scores are not clipped, and in the games of single points (Pong, Boxing,
  Breakout) what an action changes is 0.1 to 0.2; with a floor of 1 a search of 25 simulations
  leaves their policies flat.

Policy lag: 96 workers bring 8 sequences each and act on while they wait, so a batch of 96 is 8 to 9
updates old. Run time: the paper spent about 35,000 TPU-v3 device hours on 57 games × 3 seeds × 2
arms and the tuning; here it is untested on hardware. Expected score: table 3 of the paper (median
human-normalised 5.03 over 57 games after 500 M frames).
"""

import dataclasses

from configs.schema import Config, SearchConfig, StopConfig

CONFIG = dataclasses.replace(
    Config(), search=SearchConfig(floor=0.1), stop=StopConfig(num_frames=500_000_000)
)
