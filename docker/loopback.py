"""A real cluster of two nodes on this machine, and a job submitted to it as to one of images: a run
to its end.

    python docker/loopback.py

prints the job's output and ends with its exit code. Nothing of it outlives the program. (The code
is named by its place: both nodes would unpack a `--working-dir` into the same folder of this
machine and delete it for each other.)
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]
HEAD = {
    "num_cpus": 0,
    "include_dashboard": True,
    "dashboard_host": "127.0.0.1",
    "dashboard_port": 28265,
}
# A node's agent takes jobs there; any other Ray on this machine has the default
AGENT_PORTS = (
    28266,
    28267,
)
NUM_ATTEMPTS = 12  # a fresh node takes jobs a while after it has joined


def submit(run_dir: str) -> int:
    """Submits the smallest training run, as soon as a node takes jobs; returns the exit code of
    `ray job submit`.
    """
    ray = str(Path(sys.executable).with_name("ray"))
    train = [
        sys.executable,
        f"{ROOT}/scripts/train.py",
        "smoke",
        "--ray-address",
        "auto",
        "--run-dir",
        run_dir,
    ]
    address = f"http://127.0.0.1:{HEAD['dashboard_port']}"
    reserve = ["--entrypoint-num-cpus", "1"]
    for _ in range(NUM_ATTEMPTS):
        command = [ray, "job", "submit", "--address", address, *reserve, "--", *train]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if "No available agent" not in done.stdout:
            break
        time.sleep(5.0)
    print(done.stdout)
    return done.returncode


def main() -> int:
    """Returns the job's exit code, 1 if its run is not whole."""
    cluster = Cluster(
        initialize_head=True, head_node_args=HEAD | {"dashboard_agent_listen_port": AGENT_PORTS[0]}
    )
    try:
        cluster.add_node(num_cpus=2, dashboard_agent_listen_port=AGENT_PORTS[1])
        cluster.wait_for_nodes()
        with tempfile.TemporaryDirectory() as folder:
            code = submit(f"{folder}/run")
            is_whole = (Path(folder) / "run" / "evaluations" / "random.json").exists()
    finally:
        cluster.shutdown()
    return code or int(not is_whole)


if __name__ == "__main__":
    sys.exit(main())
