"""docker/slurm.sh, with stand-ins for what a cluster has."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docker_files import DOCKER

SRUN = """#!/bin/bash
on=head
for word; do
    case "$word" in --exclude=*) on=workers ;; --*) ;; *) break ;; esac
    shift
done
echo "$on: $*" >> "$TAPE"
case "$*" in
    *"ray start --head"*) [ -z "${BROKEN:-}" ] || exit 1; sleep 15 ;;
    *"ray start"*) sleep 15 ;;
    "ray status"*) [ -z "${BROKEN:-}" ] ;;
    *)
        stat --format=%a "$RAY_AUTH_TOKEN_PATH" >> "$TAPE"
        # it starts beside this one
        for _ in $(seq 100); do grep -q "^workers: " "$TAPE" && break; sleep 0.1; done
        exit "${CODE:-0}" ;;
esac
"""


def run_slurm(tmp_path, *command, nodes=4, **variables):
    """Runs the script with stand-ins for SLURM's programs; returns (exit code, errors, what ran
    where).
    """
    programs, tape = tmp_path / "programs", tmp_path / "tape"
    programs.mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho node1; echo node2\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_CPUS_PER_TASK": "32"}
    slurm |= {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-4]",
        "TAPE": str(tape),
        "PATH": path,
    }
    call, errors = ["bash", DOCKER / "slurm.sh", *command], tmp_path / "errors"
    with errors.open("w") as stderr:  # a file: the stand-ins that sleep would keep a pipe open
        code = subprocess.run(
            call, env=os.environ | slurm | variables, stderr=stderr, check=False
        ).returncode
    assert not list(tmp_path.glob(".ray-token-*"))
    return code, errors.read_text(), tape.read_text().splitlines() if tape.exists() else []


def test_under_slurm_the_run_gets_every_core_but_the_heads(tmp_path):
    code, _, tape = run_slurm(tmp_path)
    assert code == 0
    (head,) = (line for line in tape if "ray start --head" in line)
    assert "--num-cpus=0 --num-gpus=0" in head and head.startswith("head: ")
    assert any(
        line.startswith("workers: ray start --address=node1:") and "--num-cpus=32" in line
        for line in tape
    )
    (run,) = (line for line in tape if "scripts/train.py" in line)
    assert (
        run.startswith("head: python ")
        and run.endswith("--actors.num-workers 96")
        and "600" in tape
    )


def test_under_slurm_a_program_of_yours_shares_all_nodes_and_its_exit_code_is_the_jobs(tmp_path):
    code, _, tape = run_slurm(tmp_path, "python", "scripts/suite.py", "run", "minatar", CODE="3")
    assert code == 3 and "head: python scripts/suite.py run minatar" in tape
    assert any("ray start --head" in line and "--num-cpus=32" in line for line in tape)


def test_under_slurm_a_head_that_does_not_start_ends_the_job(tmp_path):
    code, error, tape = run_slurm(tmp_path, BROKEN="yes")
    assert (
        code == 1
        and "Ray's head did not start on node1" in error
        and not any("scripts" in line for line in tape)
    )


def test_under_slurm_one_node_is_too_few_for_a_run(tmp_path):
    code, error, tape = run_slurm(tmp_path, nodes=1)
    assert code == 2 and "at least 2" in error and tape == []
