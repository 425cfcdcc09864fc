"""The smallest Atari run: the real program, from start to score, for tests and for a first look.

    python scripts/train.py smoke

Run time: about 30 s of one core, most of it compilation. Expected score: that of the random policy;
nothing is learnt.

Deviations from the paper: everything is tiny (48x48 frames, vector latents, 4 simulations, 2
environments, 8 updates), and games are cut after 60 emulator frames, so that some end: an agent
that has learnt nothing may never fire the ball.
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
    env=EnvConfig(name="breakout", frame_size=48, max_noops=5, max_episode_frames=60),
    network=NetworkConfig(
        latent="vector",
        encoder="light",
        history_length=2,
        num_channels=8,
        latent_size=16,
        hidden_size=16,
    ),
    support=SupportConfig(min_value=-10.0, max_value=10.0, num_bins=21),
    search=SearchConfig(num_simulations=4),
    loss=LossConfig(num_unroll_steps=2),
    value_buffer=ValueBufferConfig(size=2, push_interval=2, chunk_size=2),
    optimiser=OptimiserConfig(schedule_num_updates=8),
    actors=ActorsConfig(
        num_workers=1, environments_per_worker=2, sequence_length=8, sequence_overlap=3
    ),
    learner=LearnerConfig(batch_size=2, num_devices=1),
    log=LogConfig(interval_seconds=0.1, checkpoint_interval_minutes=1.0, evaluation_episodes=1),
    stop=StopConfig(num_updates=8),
)
