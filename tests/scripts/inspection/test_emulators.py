"""Which games are refused: those whose emulator does not go on as it would have."""

import pytest

from configs.schema import ConfigError
from scripts import emulators


def test_a_refused_game_differs_and_another_does_not(capsys):
    """Where this fails with a new ale-py, `actors/states.py` refuses too much or too little."""
    assert emulators.main(["yars_revenge", "pong"]) == 0
    refused, summary = capsys.readouterr().out.splitlines()
    assert refused.startswith("yars_revenge: differs after")
    assert summary == "1 of 2 games agree after every restore"


def test_no_game_of_that_name():
    with pytest.raises(ConfigError, match="GAME = ponk: no game of ale-py; near: ALE/Pong-v5"):
        emulators.main(["ponk"])
