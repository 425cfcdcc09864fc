"""evaluate.py on a whole run, and the agent of a run in five lines."""

import json
import re
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest

from scripts import evaluate
from scripts.playing import load_agent, load_env
from scripts.playing.evaluation import evaluation_seed, selection_seed

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy


@pytest.fixture(scope="module")
def evaluated(smoke, programs, tmp_path_factory):
    """Returns (folder, completed process) of a greedy evaluation with a video, files in a folder
    that was not there.
    """
    folder = tmp_path_factory.mktemp("evaluated") / "new"
    files = ("--out", folder / "score.json", "--video", folder / "game.mp4")
    return folder, programs.run("evaluate", smoke[0], "--episodes", 3, *files)


KEYS = {
    "environment",
    "protocol",
    "checkpoint",
    "mean",
    "standard_error",
    "human_normalised",
    "returns",
}


def test_sampled_score_and_baselines(smoke, call, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(smoke[0], path)
    arguments = (
        "--protocol",
        "sampled",
        "--episodes",
        2,
        "--max-decisions",
        6,
        "--baselines",
        "--baseline-episodes",
        2,
    )
    code, output, _ = call(evaluate, path, *arguments)
    assert code == 0
    folder = path / "evaluations"
    sampled, random, constant = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("sampled-8-2", "random-2", "constant-2")
    )
    assert set(sampled) == set(random) == KEYS | {"num_unfinished"}
    assert set(constant) == set(random) | {"action", "action_name", "action_means"}

    def told(x):
        return x["protocol"], x["checkpoint"], len(x["returns"]), x["num_unfinished"]

    assert told(sampled) == ("sampled", 8, 2, 2) and told(constant) == ("constant", None, 2, 2)
    assert len(constant["action_means"]) == 4 and constant["action"] == np.argmax(
        constant["action_means"]
    )
    assert output.count("written to") == 3


def test_greedy_score(evaluated):
    folder, done = evaluated
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "score.json").read_text())
    assert set(result) == KEYS | {"num_unfinished"}
    assert (result["protocol"], result["checkpoint"], len(result["returns"])) == ("greedy", 8, 3)
    assert result["num_unfinished"] == 3  # the preset truncates games after 60 frames
    assert result["mean"] == pytest.approx(sum(result["returns"]) / 3)
    # Unbiased variance of three games
    spread = sum((x - result["mean"]) ** 2 for x in result["returns"]) / 2
    assert result["standard_error"] == pytest.approx((spread / 3) ** 0.5)
    # Breakout, table 3
    assert result["human_normalised"] == pytest.approx((result["mean"] - 1.7) / (30.5 - 1.7))
    printed = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert printed == {key: value for key, value in result.items() if key != "returns"} | {
        "games": 3
    }
    assert f"written to {folder / 'score.json'}" in done.stdout


@pytest.mark.filterwarnings("ignore:os.fork")  # ffmpeg, executed at once
def test_video_of_a_game_can_be_played(evaluated):
    folder, _ = evaluated
    with imageio.get_reader(folder / "game.mp4") as reader:
        meta, frames = reader.get_meta_data(), [frame for frame in reader]
    assert meta["codec"] == "h264" and meta["fps"] == 15.0
    assert meta["size"] == (480 + 432, 640) and meta["size"][0] % 2 == meta["size"][1] % 2 == 0
    # 60 emulator frames, 4 a decision; two seconds of the last state
    assert 14 + 30 <= len(frames) <= 16 + 30
    game = frames[0][5:635, :480]
    colours = abs(game.astype(int) - game.mean(-1, keepdims=True)).max(-1)
    assert (colours > 40).mean() > 0.05  # breakout's bricks, in colour
    # The panel moves
    assert abs(frames[0].astype(int) - frames[10].astype(int))[:, 480:].max() > 60


def test_the_papers_score_is_the_mean_of_the_last_games_as_played(smoke, call, tmp_path):
    out = tmp_path / "score.json"
    code, output, _ = call(evaluate, smoke[0], "--protocol", "training-final-200", "--out", out)
    assert code == 0
    result = json.loads(out.read_text())
    played = [
        json.loads(line)["episode"][0]
        for line in (smoke[0] / "episodes.jsonl").read_text().splitlines()
    ]
    assert set(result) == KEYS
    assert (result["protocol"], result["checkpoint"], result["returns"]) == (
        "training-final-200",
        None,
        played,
    )
    assert result["mean"] == pytest.approx(sum(played) / len(played))
    assert '"protocol": "training-final-200"' in output and "returns" not in output


def test_only_the_last_200_games_count(smoke, call, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(smoke[0] / "config.json", path)
    games = [json.dumps({"num_frames": n, "episode": [float(n), 5, 20]}) + "\n" for n in range(250)]
    (path / "episodes.jsonl").write_text("".join(games))
    assert call(evaluate, path, "--protocol", "training-final-200")[0] == 0
    result = json.loads((path / "evaluations" / "training-final-200.json").read_text())
    assert result["returns"] == [float(n) for n in range(50, 250)]
    assert result["mean"] == 149.5 and result["standard_error"] == pytest.approx(
        57.88 / 200**0.5, rel=1e-3
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("--checkpoint", "best"),
            "checkpoint = best: .* has none, .*use latest or a number of updates",
        ),
        (
            ("--checkpoint", "newest"),
            "checkpoint = newest: must be latest, best or a number of updates",
        ),
        (("--checkpoint", "5"), r"no checkpoint 5 in .*; there are \[0, 8\]"),
        (("--episodes", "0"), "--episodes = 0: must be above 0"),
        (("--video", "game.gif"), r"--video game\.gif: must end in \.mp4"),
        (("--out", "."), r"--out \.: is a directory, must be a file"),
        (
            ("--protocol", "training-final-200", "--checkpoint", "8"),
            "training-final-200: not with --checkpoint, ",
        ),
        (
            ("--protocol", "training-final-200", "--episodes", "5"),
            "training-final-200: not with --checkpoint, ",
        ),
        (
            ("--protocol", "training-final-200", "--max-decisions", "5"),
            "training-final-200: not with --checkpoint, ",
        ),
        (("--max-decisions", "0"), "--max-decisions = 0: must be above 0"),
        (("--baselines", "--baseline-episodes", "0"), "--baseline-episodes = 0: must be above 0"),
        (("--out", "file/x.json"), r"--out file: .*File exists"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_evaluate_refuses_in_one_line(smoke, call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, output, error = call(evaluate, smoke[0], *arguments)
    assert (code, output) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("error: ") and re.search(message, line)


def test_a_run_without_a_finished_game_has_no_score_as_played(smoke, call, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(smoke[0] / "config.json", path)
    code, _, error = call(evaluate, path, "--protocol", "training-final-200")
    assert code == 2 and "no finished game to score yet" in error


def test_an_agent_in_five_lines(smoke):
    env = load_env(smoke[0])
    observation, _ = env.reset(seed=1)
    agent = load_agent(smoke[0])
    actions = [agent.act(observation) for _ in range(3)]
    assert all(isinstance(action, int) and 0 <= action < 4 for action in actions)
    agent.reset()
    assert agent.act(observation) == actions[0]
    env.close()


@pytest.mark.parametrize("seed", [0, 1, 10**6, 2**32 - 1])
def test_games_that_score_select_and_train_never_share_a_seed(seed):
    scored = range(evaluation_seed(seed), evaluation_seed(seed) + 25)
    selected = [selection_seed(seed, updates) for updates in (0, 1000, 10**9)]
    assert 2**30 <= scored.start and scored.stop <= min(selected)  # training draws below 2**30
    assert max(selected) + 25 < 2**31
