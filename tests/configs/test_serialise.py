"""Settings as stored dictionaries, and the presets with what their docstrings promise."""

import copy
import json
import re

import pytest

from configs import presets
from configs.schema import Config, ConfigError, LossConfig
from configs.serialise import differences, from_dict, section, to_dict


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
        "env", "network", "support", "search", "loss", "value_buffer", "optimiser", "actors", "learner", "log", "stop",
        "seed", "deterministic",
    }  # fmt: skip


def test_what_is_no_object_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"top level: \[\]: must be an object"):
        from_dict([])
    with pytest.raises(ConfigError, match=r"search\.: 3: must be an object"):
        from_dict(to_dict(Config()) | {"search": 3})


@pytest.mark.parametrize("place", [(), ("search",), ("stop",)], ids=str)
def test_an_unknown_field_is_refused_by_name(place):
    values = copy.deepcopy(to_dict(Config()))
    target = values
    for name in place:
        target = target[name]
    target["surprise"] = 1
    with pytest.raises(ConfigError, match=r"unknown \['surprise'\], missing \[\]") as refusal:
        from_dict(values)
    assert (".".join([*place, ""]) if place else "top level") in str(refusal.value)


@pytest.mark.parametrize("path", ["seed", "network", "loss.td_lambda", "learner.batch_size"])
def test_a_missing_field_is_refused_by_name(path):
    values = copy.deepcopy(to_dict(Config()))
    *place, name = path.split(".")
    target = values
    for part in place:
        target = target[part]
    del target[name]
    with pytest.raises(ConfigError, match=rf"unknown \[\], missing \['{name}'\]"):
        from_dict(values)


def test_a_section_is_the_keyword_arguments_of_its_builder():
    assert section(LossConfig(td_lambda=0.5))["td_lambda"] == 0.5
    assert len(section(LossConfig())) == 9


def test_differences_name_each_field_that_changed():
    old, new = to_dict(Config()), to_dict(presets.PRESETS["atari-paper"])
    assert differences(old, new) == ["search.floor: 1.0 -> 0.1", "stop.num_frames: None -> 500000000"]
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
