#!/usr/bin/env bash
#SBATCH --job-name=muzero
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#
# A Ray cluster for the length of a job, and one run on it, or what you give:
#
#     sbatch docker/slurm.sh
#     sbatch docker/slurm.sh python scripts/suite.py run atari57 --out /shared/runs/atari57 --ray-address auto
#
# The first node is head and learner, the others act. Every node sees this checkout and /shared, with `make install` done.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. .venv/bin/activate

run=/shared/runs/ms_pacman-1
if [ $# -eq 0 ]; then
    if [ -e "$run/config.json" ]; then # requeued: it goes on
        set -- python scripts/resume.py "$run" --ray-address auto
    else
        set -- python scripts/train.py atari-paper --env.name ms_pacman --seed 1 --ray-address auto --run-dir "$run"
    fi
fi

umask 077
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=100 # Ray gets the signal too, and would be gone 30 s later
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one machine do not meet
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --dashboard-host=127.0.0.1 --disable-usage-stats --block &
until srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray status --address="$head:$port" >/dev/null 2>&1; do
    sleep 5
done
workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
    srun --overlap --nodes="$workers" --ntasks="$workers" --exclude="$head" \
        ray start --address="$head:$port" --disable-usage-stats --block &
fi
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" "$@"
