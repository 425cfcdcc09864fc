"""Suites: what the files say, what a trial's program is told, what is refused."""

import dataclasses
import re

import pytest

from configs import suite as suites
from configs.schema import ConfigError
from configs.serialise import differences, to_dict
from configs.suite import Resources, Trial
from learner.records.run_directory import RunDirectory
from scripts import train
from scripts.experiments import trials

GOOD = """
preset = "minatar"
games = ["MinAtar/Breakout-v1", "MinAtar/Asterix-v1"]
seeds = [1, 2]
frames = 1000
[settings]
value_buffer.push_interval = 7
optimiser.max_gradient_norm = "None"
env.terminate_on_life_loss = false
[arms.muzero]
loss.past_weight = 0.0
[arms."muzero+past"]
search.policy = "visits"
"""


@pytest.fixture
def good(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    return suites.load(str(tmp_path / "mine.toml"))


def test_the_suites_are_those_that_are_promised():
    sizes = {
        name: (len(suites.load(name).games), len(suites.load(name).trials()))
        for name in suites.names()
    }
    assert sizes == {
        "atari-ablation": (2, 20),
        "atari-bisection": (2, 66),
        "atari-six": (6, 30),
        "atari57": (57, 342),
        "atari57-cpu": (57, 342),
        "cartpole-buffer": (1, 30),
        "minatar": (5, 50),
    }
    assert (
        suites.load("atari57").frames == 500_000_000 and suites.load("minatar").frames == 1_000_000
    )


@pytest.mark.parametrize("name", ["atari-ablation", "atari57", "atari57-cpu", "minatar"])
def test_the_arms_differ_in_the_past_weight_alone(name):
    suite = suites.load(name)
    plain, past = (
        to_dict(suite.config(Trial(suite.games[0], arm, suite.seeds[0]))) for arm in suite.arms
    )
    assert list(suite.arms) == ["muzero", "muzero+past"]
    assert differences(plain, past) == ["loss.past_weight: 0.0 -> 0.25"]
    assert plain["value_buffer"] == past["value_buffer"]  # both push heads


@pytest.mark.parametrize(
    "name, updates",
    [("atari-ablation", 15_625), ("atari57-cpu", 31_250), ("minatar", 31_250), ("atari57", 65_104)],
)
def test_the_buffer_reaches_back_over_a_tenth_of_training_as_in_the_paper(name, updates):
    suite = suites.load(name)
    config = suite.config(suite.trials()[0])
    repeat = config.env.action_repeat if name.startswith("atari") else 1
    new = config.actors.sequence_length - config.actors.sequence_overlap
    batches = suite.frames / repeat / (config.learner.batch_size * new)
    assert batches * config.learner.num_passes * config.learner.num_minibatches == pytest.approx(
        updates, rel=1e-3
    )
    assert config.optimiser.schedule_num_updates == updates
    assert config.value_buffer.size * config.value_buffer.push_interval == pytest.approx(
        0.1 * updates, rel=0.02
    )


def test_the_sweep_changes_the_buffer_alone_and_shares_nothing_with_the_ablation():
    suite = suites.load("cartpole-buffer")
    for ablation in map(suites.load, ("minatar", "atari-ablation")):
        assert not {*suite.games} & {*ablation.games} and not {*suite.seeds} & {*ablation.seeds}
    updates = suite.settings["optimiser.schedule_num_updates"]
    spans = {}
    for arm, changes in suite.arms.items():
        assert {*changes} - {"value_buffer.size", "value_buffer.push_interval"} <= {
            "loss.past_weight"
        }
        spans[arm] = changes["value_buffer.size"] * changes["value_buffer.push_interval"] / updates
    assert spans.pop("muzero") == spans["4-heads-10-percent"]
    for arm, span in spans.items():
        heads, _, percent, _ = arm.split("-")
        assert suite.arms[arm]["value_buffer.size"] == int(heads)
        assert span == pytest.approx(int(percent) / 100, rel=0.05)


def test_trials_are_every_game_seed_and_arm_arms_side_by_side(good):
    assert len(set(good.trials())) == len(good.trials()) == 8
    assert good.trials()[:2] == [Trial(good.games[0], arm, 1) for arm in ("muzero", "muzero+past")]
    assert {trial.seed for trial in good.trials()[:4]} == {1}


def test_a_trials_program_is_told_exactly_its_configuration(good, tmp_path):
    all_suites = [good, *map(suites.load, suites.names())]
    for suite, trial in [
        (each, trial) for each in all_suites for trial in (each.trials()[0], each.trials()[-1])
    ]:
        preset, options = train.parse(trials.train_arguments(suite, trial, tmp_path))
        assert (preset, options.run_dir) == (suite.preset, tmp_path)
        assert options.config == suite.config(trial)
        assert (options.config.env.name, options.config.seed) == (trial.game, trial.seed)
        assert dataclasses.astuple(options.config.stop) == (suite.frames, None, None)


def test_every_field_may_be_set_to_what_its_preset_has(good):
    flat = dict(suites._flat(to_dict(good.config(good.trials()[0]))))
    fields = {
        path: value
        for path, value in flat.items()
        if path not in ("env.name", "seed", "stop.num_frames")
    }
    assert fields["actors.num_workers"] == 1 and fields["loss.past_clip"] == 1.0
    stops = {path: fields.pop(path) for path in ("stop.num_updates", "stop.minutes")}
    assert set(stops.values()) == {None}
    assert (
        suites.checked(dataclasses.replace(good, settings=fields, arms={"all": {}})).settings
        == fields
    )


def test_every_trial_has_a_directory_of_its_own(good, tmp_path):
    paths = {
        trials.run_path(tmp_path, trial)
        for trial in suites.load("atari57").trials() + good.trials()
    }
    assert len(paths) == 342 + 8 and {path.parent for path in paths} == {tmp_path / "trials"}
    assert RunDirectory(paths.pop()).path.is_absolute()


def test_the_command_line_takes_the_place_of_the_files_lists(good):
    changed = suites.overridden(good, ("CartPole-v1",), (5, 6, 7), 12)
    assert (changed.games, changed.seeds, changed.frames, len(changed.trials())) == (
        ("CartPole-v1",),
        (5, 6, 7),
        12,
        6,
    )
    assert suites.overridden(good, None, None, None) == good


def test_resources_have_defaults_and_can_be_given(good, tmp_path):
    assert good.resources == Resources(1.0, 0.0, "embedded")
    (tmp_path / "mine.toml").write_text(GOOD + '[resources]\ncpus = 2\nactors = "cluster"\n')
    assert suites.load(str(tmp_path / "mine.toml")).resources == Resources(2, 0.0, "cluster")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("preset = ", "preset == ", "not TOML"),
        ('"minatar"', '"atari"', "preset = atari: must be one of atari-paper"),
        ('preset = "minatar"', "", "preset is missing: must be a string"),
        ("preset", "presets", "presets: no such field; did you mean preset?"),
        ("[1, 2]", '["1"]', "seeds = ['1']: must be an array of whole numbers"),
        ("[1, 2]", "[]", "seeds = []: must be at least one"),
        ("[1, 2]", "[1, 1]", "seeds = [1, 1]: has duplicates"),
        ("[1, 2]", "[-1]", "seed = -1: must lie in [0, 2**32)"),
        ("[1, 2]", "3", "seeds = 3: must be an array of whole numbers"),
        ("1000", "1.5", "frames = 1.5: must be a whole number"),
        ("1000", "0", "frames = 0: must be above 0"),
        (
            "value_buffer.push_interval",
            "value_bufer.size",
            "value_bufer: no such field; did you mean value_buffer?",
        ),
        (
            "push_interval = 7",
            "push_intervals = 7",
            "no such field; did you mean value_buffer.push_interval?",
        ),
        (
            "push_interval = 7",
            'push_interval = "7"',
            "value_buffer.push_interval = '7': must be a whole number",
        ),
        (
            "push_interval = 7",
            "push_interval = 0",
            "value_buffer.push_interval = 0: must be above 0",
        ),
        ("value_buffer.push_interval = 7", "value_buffer = 7", "value_buffer = 7: must be a table"),
        ('"visits"', '"greedy"', "search.policy = 'greedy': must be"),
        (
            "loss.past_weight = 0.0",
            "loss.past_weight = -1",
            "loss.past_weight = -1.0: must not be negative",
        ),
        ("loss.past_weight = 0.0", "seed = 3", "seed: cannot be set here; games, seeds and frames"),
        ("[arms.muzero]", "[arm.muzero]", "arm: no such field; did you mean arms?"),
        ("[arms.muzero]", "[arms]\nmuzero = 3\n[arms.x]", "arms = {"),
        (
            "preset",
            'name = "mine"\npreset',
            "name: cannot be set here; a suite is called what its file is",
        ),
        ('"visits"', "1979-05-27", "search.policy = "),
        (
            "[settings]",
            "[resources]\ncpus = 0\n[settings]",
            "resources.cpus = 0.0: must be above 0",
        ),
        (
            "[settings]",
            "[audit]\nnum_rollouts = 1\n[settings]",
            "audit.num_rollouts = 1: must be at least 2",
        ),
        ("[settings]", "[audit]\nnum_heads = 1\n[settings]", "audit.num_heads: no such field"),
        (
            "[settings]",
            '[resources]\nactors = "far"\n[settings]',
            "resources.actors = 'far': must be one of embedded, cluster",
        ),
    ],
)
def test_a_bad_suite_is_refused_in_one_line(tmp_path, old, new, message):
    assert old in GOOD
    (tmp_path / "bad.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        suites.load(str(tmp_path / "bad.toml"))
    assert str(error.value).startswith(f"{tmp_path}/bad.toml: ") and "\n" not in str(error.value)


def test_an_unknown_suite_is_refused_with_the_names_there_are():
    names = (
        "atari-ablation, atari-bisection, atari-six, atari57, atari57-cpu, cartpole-buffer, minatar"
    )
    with pytest.raises(ConfigError, match=f"suite = atari: must be one of {names}, or"):
        suites.load("atari")
