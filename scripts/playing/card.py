"""The card of an exported agent: what it scored, and where it came from, as Markdown."""

from actors.environments import resolve_name
from configs.schema import Config
from learner.records.run_directory import RunDirectory, read_rows

_PLAYERS = {
    "sampled": "the agent, actions drawn as in training",
    "greedy": "the agent, its most probable actions",
    "constant": "the best single action, held",
    "random": "random actions",
}
_LICENCES = {
    "MinAtar/": "MinAtar is GPL-3.0 and an extra of this project.",
    "ALE/": "The game is its publisher's; ale-py (GPL-2.0) ships its ROM under its own terms.",
}


def write(directory: RunDirectory, config: Config, num_updates: int) -> str:
    """Returns the card of a run's agent after `num_updates` updates.

    Scores are those of the run's `evaluations/`: of this checkpoint, and of players that look at
    nothing. Of several by one protocol the one with most games counts.
    """
    start = directory.read_provenance()[0]
    commit = start["git"]["commit"] or "unknown"
    changed = " with uncommitted changes" if start["git"]["diff"] else ""
    packages = ", ".join(
        f"{name} {start['packages'][name]}" for name in ("jax", "dm-haiku", "mctx", "gymnasium")
    )
    rows = [row for row in read_rows(directory.metrics_file) if row["num_updates"] <= num_updates]
    frames = f"{rows[-1]['num_frames']:,} frames, " if rows else ""
    return f"""# {config.env.name}, seed {config.seed}

{_scores(directory, num_updates)}
Trained for {frames}{num_updates:,} updates from {start["start_time"]} on, by commit
{commit}{changed}, with {packages}, Python {start["python"]}.
Every setting is in `agent.json`.

```
python scripts/evaluate.py FOLDER --protocol sampled --episodes 30
python scripts/evaluate.py FOLDER --episodes 1 --video game.mp4
python scripts/look.py tree FOLDER --out tree.svg
```

{_licence(config.env.name)}
"""


def _scores(directory: RunDirectory, num_updates: int) -> str:
    best: dict[str, dict] = {}
    for result in directory.read_evaluations():
        is_ours = result["checkpoint"] in (num_updates, None) and result["protocol"] in _PLAYERS
        others = best.get(result["protocol"], {"returns": []})
        if is_ours and len(result["returns"]) > len(others["returns"]):
            best[result["protocol"]] = result
    if not best:
        return "No whole games were scored.\n"
    lines = [
        "Whole games whose seeds training never saw, ± one standard error over games:",
        "",
        "| player | return | human-normalised | games | cut off |",
        "|---|---|---|---|---|",
    ]
    for protocol, player in _PLAYERS.items():
        if (result := best.get(protocol)) is not None:
            held = f" ({result['action_name']})" if "action_name" in result else ""
            error, human = result["standard_error"], result["human_normalised"]
            lines.append(
                f"| {player}{held} | {result['mean']:,.2f}"
                f"{'' if error is None else f' ± {error:,.2f}'} | "
                f"{'–' if human is None else f'{human:.2f}'} | {len(result['returns'])} | "
                f"{result.get('num_unfinished', 0)} |"
            )
    return "\n".join(lines) + "\n"


def _licence(environment: str) -> str:
    environment = resolve_name(environment)
    for prefix, sentence in _LICENCES.items():
        if environment.startswith(prefix):
            return sentence
    return "Weights of this project; the environment is under its own licence."
