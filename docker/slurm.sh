#!/usr/bin/env bash
#SBATCH --job-name=muzero
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#
# A Ray cluster for the length of a job, and one run on it, or what you give:
#
#     sbatch docker/slurm.sh
#     sbatch docker/slurm.sh python scripts/suite.py run atari57 --out /shared/runs/atari57 --ray-address auto
#
# Of the run, the first node is head and learner, every core of the others an actor. What you give shares all nodes as it
# asks Ray for them. Every node sees this checkout and /shared, with `make install` done.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. .venv/bin/activate

cpus=$SLURM_CPUS_PER_TASK
workers=$((SLURM_JOB_NUM_NODES - 1))
offers=(--num-cpus="$cpus")
if [ $# -eq 0 ]; then
    run=/shared/runs/ms_pacman-1
    offers=(--num-cpus=0 --num-gpus=0)
    if [ "$workers" -eq 0 ]; then
        echo "slurm.sh: --nodes=1: at least 2, the actors need nodes of their own" >&2
        exit 2
    elif [ -e "$run/config.json" ]; then # submitted again: it goes on
        set -- python scripts/resume.py "$run" --ray-address auto
    else
        set -- python scripts/train.py atari-paper --env.name ms_pacman --seed 1 --ray-address auto --run-dir "$run" \
            --network.remat --actors.num-workers $((workers * cpus))
    fi
fi

export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=100 # Ray gets the signal too, and would be gone 30 s later
export RAY_TMPDIR=/tmp/muzero-$SLURM_JOB_ID      # /tmp/ray may be another user's
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*} # a pipe into `head` ends in SIGPIPE now and then
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one machine do not meet
step() { # every core of its nodes, whatever SLURM would bind it to
    srun --overlap --cpus-per-task="$cpus" --cpu-bind=none "$@"
}
on_head() {
    step --nodes=1 --ntasks=1 --nodelist="$head" "$@"
}

on_head ray start --head --port="$port" "${offers[@]}" --dashboard-host=127.0.0.1 --disable-usage-stats --block &
head_pid=$!
until on_head ray status --address="$head:$port" >/dev/null 2>&1; do
    if ! kill -0 "$head_pid" 2>/dev/null; then
        echo "slurm.sh: Ray's head did not start on $head" >&2
        exit 1
    fi
    sleep 5
done
export RAY_ADDRESS="$head:$port"
if [ "$workers" -gt 0 ]; then
    step --nodes="$workers" --ntasks="$workers" --exclude="$head" \
        ray start --address="$head:$port" --num-cpus="$cpus" --disable-usage-stats --block &
fi
on_head "$@"
