"""CartPole-v1 with vector latents: the quickest run that shows learning.

    python scripts/train.py cartpole

Run time: 400,000 decisions in 4 to 8 minutes on one core. Expected score: 500 of 500, greedy; see
docs/results.md.

Deviations from the paper, with reasons:
* vector latents, one frame of history, 61 bins to ± 30 on h(x): the state is a Markov vector of
  four numbers;
* 16 simulations for two actions; Q floor 1.0: the size of one reward, the smallest difference that
  means anything;
* γ 0.99, λ 0.9: an episode is up to 500 decisions of reward 1, its end is what has to be seen;
* 16 updates per 640 new steps (4 passes, 4 minibatches), learning rate 1e-3, gradients clipped: a
  CPU's batches are small;
* lockstep collecting: on one core nothing is gained by acting with older parameters;
* 8 past heads, pushed every 50 updates.
"""

from configs.schema import (
    ActorsConfig,
    Config,
    EnvConfig,
    LearnerConfig,
    LogConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    SearchConfig,
    StopConfig,
    SupportConfig,
    ValueBufferConfig,
)

CONFIG = Config(
    env=EnvConfig(name="CartPole-v1"),
    network=NetworkConfig(
        latent="vector", encoder="light", history_length=1, latent_size=64, hidden_size=64
    ),
    support=SupportConfig(min_value=-30.0, max_value=30.0, num_bins=61),
    search=SearchConfig(num_simulations=16, floor=1.0),
    loss=LossConfig(discount_factor=0.99, td_lambda=0.9),
    value_buffer=ValueBufferConfig(size=8, push_interval=50),
    optimiser=OptimiserConfig(
        learning_rate=1e-3, schedule_num_updates=10_000, max_gradient_norm=10.0
    ),
    actors=ActorsConfig(
        num_workers=1, environments_per_worker=32, sequence_length=30, sequence_overlap=10
    ),
    learner=LearnerConfig(
        batch_size=32,
        num_passes=4,
        num_minibatches=4,
        num_devices=1,
        collect_ahead=False,
        publish_interval=16,
    ),
    log=LogConfig(checkpoint_interval_minutes=1.0),
    stop=StopConfig(num_frames=400_000),
)
