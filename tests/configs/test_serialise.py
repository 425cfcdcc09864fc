"""Settings as stored dictionaries, and the presets with what their docstrings promise."""

import copy
import json
import re

import pytest

from configs import presets, serialise
from configs.schema import Config, ConfigError
from configs.serialise import differences, from_dict, to_dict


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_a_preset_survives_json(name):
    config = presets.PRESETS[name]
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert type(again.learner) is type(config.learner)


def test_the_dictionary_is_complete_and_nested():
    values = to_dict(Config())
    assert values["loss"]["discount_factor"] == 0.997 and values["seed"] == 0
    assert values["env"]["reward_clip"] is None
    assert set(values) == {
        "env", "network", "support", "search", "loss", "value_buffer", "optimiser", "actors",
        "learner", "replay", "log", "stop", "seed", "deterministic",
    }  # fmt: skip


def test_what_is_no_table_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"^stored configuration: settings = \[\]: must be a table$"
    ):
        from_dict([])
    with pytest.raises(ConfigError, match=r"^stored configuration: search = 3: must be a table$"):
        from_dict(to_dict(Config()) | {"search": 3})


def without(path):
    """Returns the default configuration without the field or section at a dotted path."""
    values = copy.deepcopy(to_dict(Config()))
    *place, name = path.split(".")
    target = values
    for part in place:
        target = target[part]
    del target[name]
    return values


@pytest.fixture
def said(caplog):
    """Returns what is said from now on, however often the test before said the same."""
    serialise._say_once.cache_clear()
    return caplog


def test_what_an_older_version_did_not_know_has_its_default_and_is_said_once(said):
    for _ in range(2):
        assert from_dict(without("loss.td_lambda")) == Config()
    (record,) = said.records
    assert (
        record.getMessage()
        == "a configuration of an older version, completed with loss.td_lambda = 0.8"
    )


@pytest.mark.parametrize(
    "path, value", [("seed", "seed = 0"), ("value_buffer", "value_buffer = {'size': 128,")]
)
def test_a_section_that_came_later_is_said_as_one(said, path, value):
    assert from_dict(without(path)) == Config()
    assert f"completed with {value}" in said.text and said.text.count(" = ") == 1


def test_a_whole_configuration_is_read_in_silence(said):
    from_dict(to_dict(Config()))
    assert said.records == []


@pytest.mark.parametrize(
    "path, field",
    [
        ("surprise", "surprise"),
        ("search.surprise", "search.surprise"),
        ("stop.minute", "stop.minute"),
    ],
)
def test_what_is_gone_is_refused_by_name(path, field):
    values = copy.deepcopy(to_dict(Config()))
    section, _, name = path.rpartition(".")
    (values[section] if section else values)[name] = 1
    with pytest.raises(
        ConfigError, match=rf"^stored configuration: {re.escape(field)}: no such field; "
    ) as refusal:
        from_dict(values)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "section, name, value, message",
    [
        (
            "loss",
            "past_latents",
            "onlin",
            "loss.past_latents = 'onlin': must be one of target, online",
        ),
        ("search", "num_simulations", "4", "search.num_simulations = '4': must be a whole number"),
        ("search", "num_simulations", 4.0, "search.num_simulations = 4.0: must be a whole number"),
        (
            "search",
            "num_simulations",
            True,
            "search.num_simulations = True: must be a whole number",
        ),
        ("search", "num_simulations", 0, "search.num_simulations = 0: must be above 0"),
        ("loss", "td_lambda", "0.5", "loss.td_lambda = '0.5': must be a number"),
        ("loss", "td_lambda", None, "loss.td_lambda = None: must be a number"),
        ("loss", "td_lambda", float("nan"), "loss.td_lambda = nan: must lie in [0, 1]"),
        ("env", "reward_clip", "1", "env.reward_clip = '1': must be a number or None"),
        ("env", "reward_clip", float("inf"), "env.reward_clip = inf: must be finite"),
        (
            "env",
            "terminate_on_life_loss",
            1,
            "env.terminate_on_life_loss = 1: must be true or false",
        ),
        ("env", "name", 3, "env.name = 3: must be a string"),
        (
            "actors",
            "num_workers",
            "many",
            "actors.num_workers = 'many': must be a whole number or one of auto",
        ),
    ],
)
def test_a_value_of_another_kind_is_refused_in_one_line(section, name, value, message):
    values = copy.deepcopy(to_dict(Config()))
    values[section][name] = value
    with pytest.raises(ConfigError) as refusal:
        from_dict(json.loads(json.dumps(values)))
    assert str(refusal.value) == f"stored configuration: {message}"


def test_a_whole_number_is_a_number_and_an_infinite_clip_is_allowed():
    values = copy.deepcopy(to_dict(Config()))
    values["loss"] |= {"td_lambda": 1, "past_clip": float("inf")}
    loss = from_dict(json.loads(json.dumps(values))).loss
    assert loss.past_clip == float("inf")
    assert loss.td_lambda == 1.0 and type(loss.td_lambda) is float


def test_differences_name_each_field_that_changed():
    old, new = to_dict(Config()), to_dict(presets.PRESETS["atari-paper"])
    assert differences(old, new) == [
        "search.floor: 1.0 -> 0.1",
        "stop.num_frames: None -> 500000000",
    ]
    assert differences(old, old) == []
    nested = differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "d": 4})
    assert nested == ["a: 1 -> None", "b.c: 2 -> 3", "d: None -> 4"]


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_the_docstring_of_a_preset_says_what_to_run_and_what_to_expect(name):
    text = presets.DESCRIPTIONS[name]
    assert re.search(rf"^ *python scripts/train\.py {name}\b", text, re.MULTILINE), "the command"
    assert re.search(r"run time", text, re.IGNORECASE), "the run time"
    assert re.search(r"score", text, re.IGNORECASE), "the expected score"
    assert re.search(r"deviations", text, re.IGNORECASE), "deviations from the paper"
