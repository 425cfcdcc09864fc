"""Image, manifests and command lines of docker/."""

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import submit as job_submit
from ray.scripts.scripts import cli as ray_cli

from configs.checks import check
from configs.schema import Config
from scripts import evaluate, resume, suite, train
from tests.docker_files import DOCKER, ROOT

DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def pins() -> dict[str, str]:
    """Returns the pinned version of every package for this Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    mine = [each for each in found if each.marker is None or each.marker.evaluate()]
    assert len({each.name for each in mine}) == len(mine), "a package has one version"
    return {each.name: str(each.specifier).removeprefix("==") for each in mine}


PINS = pins()


def documents(name):
    return [document for document in yaml.safe_load_all((DOCKER / name).read_text()) if document]


def cluster():
    return documents("kuberay/cluster.yaml")[0]


SLURM_VALUES = {
    "$port": "6379",
    '"${offers[@]}"': "--num-cpus=0 --num-gpus=0",
    "$cpus": "2",
    "$((workers * cpus))": "2",
}


def blocks(path):
    """Yields the logical command lines of the fenced blocks of a page."""
    for block in re.findall(r"^```\n(.*?)^```", path.read_text(), re.S | re.M):
        yield from block.replace("\\\n", " ").splitlines()


def commands():
    """Returns every command line of pages, manifests and scripts as words, by where it stands."""
    lines = [("docs/cluster.md", line) for line in blocks(ROOT / "docs" / "cluster.md")]
    for page in ("README.md", "docs/usage.md"):
        lines += [(page, line) for line in blocks(ROOT / page) if line.startswith("ray ")]
    compose = documents("compose.yaml")[0]["services"]
    lines += [(f"compose.yaml {name}", service["command"]) for name, service in compose.items()]
    launcher = documents("cluster.yaml")[0]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        lines += [(f"cluster.yaml {key}", line) for line in launcher[key]]
    lines.append(("job.yaml", documents("kuberay/job.yaml")[0]["spec"]["entrypoint"]))
    script = (DOCKER / "slurm.sh").read_text().replace("\\\n", " ")
    for name, text in SLURM_VALUES.items():
        script = script.replace(name, text)
    lines += [("slurm.sh", line) for line in re.findall(r"^ +set -- (.*)$", script, re.M)]
    lines += [
        ("slurm.sh", line)
        for line in re.findall(r"\b(ray (?:start|status) .*?)(?: &$| >)", script, re.M)
    ]
    return [(where, shlex.split(line, comments=True)) for where, line in lines if line.strip()]


def programs(words):
    """Yields (program, arguments) of ray and of our own in a command line, one within the other."""
    for number, word in enumerate(words):
        if word == "ray" and (number == 0 or words[number - 1] != "-c"):
            yield "ray", words[number + 1 :]
        if re.fullmatch(r"(/app/)?scripts/\w+\.py", word) and words[number - 1] == "python":
            yield word.removeprefix("/app/"), words[number + 1 :]


CALLS = [(where, *call) for where, words in commands() for call in programs(words)]


def parse_ray(arguments):
    """Parses arguments of `ray` as click would, without running the command."""
    command = ray_cli
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command.make_context("ray", list(arguments), resilient_parsing=False)


def parse_ours(program, arguments, monkeypatch, tmp_path):
    """Gives arguments to a program of ours, up to what needs a run or a cluster."""
    if program == "scripts/train.py":
        _, options = train.parse(arguments)
        check(options.config)
        return options
    if program == "scripts/suite.py":
        # 57 emulators, tested elsewhere
        monkeypatch.setattr(suite.commands, "check_environment", lambda config: None)
        assert suite.main([*arguments, "--dry-run"]) == 0
        return None
    seen = []
    module = {"scripts/resume.py": resume, "scripts/evaluate.py": evaluate}[program]
    monkeypatch.setattr(module.commands, "open_run", lambda path: (None, Config()))
    monkeypatch.setattr(
        "scripts.training.whole_run.resume", lambda *given, **more: seen.append(given) or 0
    )
    assert module.main(arguments) == 0 and seen
    return seen


def test_the_files_hold_command_lines():
    counts = {
        name: sum(call[1] == name for call in CALLS)
        for name in ("ray", "scripts/train.py", "scripts/suite.py")
    }
    assert (
        counts["ray"] >= 14 and counts["scripts/train.py"] >= 4 and counts["scripts/suite.py"] >= 2
    )


@pytest.mark.parametrize(
    "where, program, arguments", CALLS, ids=[f"{n}: {c[0]} {c[1]}" for n, c in enumerate(CALLS)]
)
def test_every_command_line_parses(where, program, arguments, monkeypatch, tmp_path):
    if program == "ray":
        parse_ray(arguments)
    else:
        parse_ours(program, arguments, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "arguments", [["start", "--heads"], ["job", "submit", "--entrypoint-num-cpu", "1", "--", "x"]]
)
def test_a_wrong_ray_command_would_be_seen(arguments):
    with pytest.raises(Exception, match="No such option"):
        parse_ray(arguments)


def test_every_submitted_program_joins_the_cluster_and_keeps_off_the_head():
    jobs = [words for where, words in commands() if words[:3] == ["ray", "job", "submit"]]
    assert len(jobs) >= 4
    for words in jobs:
        options, entrypoint = words[: words.index("--")], words[words.index("--") + 1 :]
        assert "--entrypoint-num-cpus" in options and entrypoint[0] == "python"
        assert entrypoint[entrypoint.index("--ray-address") + 1] == "auto"
        # The code of the checkout is sent along, or that of the image is named by its place.
        assert entrypoint[1].startswith(
            "scripts/" if "--working-dir" in options else "/app/scripts/"
        )
    assert job_submit in ray_cli.commands["job"].commands.values()


def test_a_job_runs_to_its_end_on_a_cluster_of_two_nodes():
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # to compile
    environment, command = os.environ | quick, [sys.executable, DOCKER / "loopback.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saved after 8 updates" in done.stdout and "succeeded" in done.stdout


def test_every_accelerator_is_an_extra_of_the_pinned_jax():
    offered = set(
        re.search(r'case "\$ACCELERATOR" in ([\w|]+)\) ;;', DOCKERFILE).group(1).split("|")
    )
    assert offered == {"cpu", "cuda12", "cuda13", "tpu"}
    assert importlib.metadata.version("jax") == PINS["jax"]
    required = importlib.metadata.requires("jax")
    for extra in offered - {"cpu"}:
        mine = [line for line in required if line.endswith(f'extra == "{extra}"')]
        # Nothing else is allowed
        assert any(line.startswith(f"jaxlib<={PINS['jax']},>={PINS['jax']}") for line in mine)


def test_the_image_has_the_python_and_the_pins_of_the_project():
    settings = (ROOT / "pyproject.toml").read_text()
    versions = set(re.findall(r"^FROM python:(\d+\.\d+)-", DOCKERFILE, re.M))
    assert versions == {"3.13"} and 'requires-python = ">=3.11,<3.14"' in settings  # the newest
    assert "--constraint constraints.txt" in DOCKERFILE
    extras = set(re.search(r'"\.\[([\w,]+)\]"', DOCKERFILE).group(1).split(","))
    assert extras and all(re.search(rf"^{extra} = ", settings, re.M) for extra in extras)


def test_the_image_copies_every_room_and_leaves_the_rest_out():
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M))
    assert copied == {"muzero", "actors", "learner", "configs", "scripts"}
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert kept == copied | {"constraints.txt", "pyproject.toml", "README.md"}


def test_nobody_is_root_in_the_image():
    last = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"useradd --uid 1000 .*muzero", last)
    assert last.index("USER muzero") > last.rindex("RUN ")


TEXT, COUNT, NUMBERS = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "number", "minimum": 0},
)


def fields(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


STRINGS = {"type": "object", "additionalProperties": TEXT}
POD = fields(
    ("spec",), spec={"type": "object", "required": ["containers", "volumes", "securityContext"]}
)
METADATA = fields(("name",), name={"type": "string", "pattern": "^[a-z0-9-]{1,50}$"})
# The fields of ray.io/v1 that are used here, from the API reference of KubeRay 1.6 (a wrong name is
# an error there).
RAY_CLUSTER = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=METADATA,
    spec=fields(
        ("rayVersion", "headGroupSpec", "workerGroupSpecs", "authOptions"),
        rayVersion=TEXT,
        authOptions=fields(("mode",), mode={"enum": ["token", "disabled"]}),
        enableInTreeAutoscaling={"type": "boolean"},
        autoscalerOptions=fields(
            version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources={"type": "object"}
        ),
        headGroupSpec=fields(("rayStartParams", "template"), rayStartParams=STRINGS, template=POD),
        workerGroupSpecs={
            "type": "array",
            "items": fields(
                ("groupName", "rayStartParams", "template"),
                groupName=TEXT,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=STRINGS,
                template=POD,
            ),
        },
    ),
)
RAY_JOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=fields(
        ("entrypoint", "clusterSelector"),
        clusterSelector=STRINGS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointNumCpus=NUMBERS,
        entrypointNumGpus=NUMBERS,
        runtimeEnvYAML=TEXT,
        entrypoint=TEXT,
    ),
)
PEERS = {
    "type": "array",
    "items": fields(podSelector={"type": "object"}, namespaceSelector={"type": "object"}),
}
PORTS = {
    "type": "array",
    "items": fields(("port", "protocol"), port=COUNT, protocol={"enum": ["TCP", "UDP"]}),
}
NETWORK_POLICY = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "networking.k8s.io/v1"},
    kind={"const": "NetworkPolicy"},
    metadata=METADATA,
    spec=fields(
        ("podSelector", "policyTypes", "ingress", "egress"),
        podSelector={"type": "object"},
        policyTypes={"const": ["Ingress", "Egress"]},
        ingress={"type": "array", "items": fields(**{"from": PEERS, "ports": PORTS})},
        egress={"type": "array", "items": fields(to=PEERS, ports=PORTS)},
    ),
)


@pytest.mark.parametrize(
    "name, schema",
    [("cluster.yaml", RAY_CLUSTER), ("job.yaml", RAY_JOB), ("network-policy.yaml", NETWORK_POLICY)],
)
def test_the_kubernetes_manifests_follow_their_schemas(name, schema):
    jsonschema.validate(documents(f"kuberay/{name}")[0], schema)


def test_the_kubernetes_cluster_is_what_it_should_be():
    spec = cluster()["spec"]
    head, groups = (
        spec["headGroupSpec"],
        {group["groupName"]: group for group in spec["workerGroupSpecs"]},
    )
    assert head["rayStartParams"]["num-cpus"] == "0" and set(groups) == {"learner", "actors"}
    assert spec["authOptions"]["mode"] == "token" and spec["enableInTreeAutoscaling"]
    assert groups["actors"]["minReplicas"] == 0 < groups["actors"]["maxReplicas"]
    assert spec["rayVersion"] == PINS["ray"] == ray.__version__
    claim = documents("kuberay/cluster.yaml")[1]
    for group in (head, *groups.values()):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["volumeMounts"][0]["mountPath"] == "/runs"
    (learner,) = groups["learner"]["template"]["spec"]["containers"]
    assert learner["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_job_fits_the_learners_pod_and_names_the_cluster():
    job, name = documents("kuberay/job.yaml")[0]["spec"], cluster()["metadata"]["name"]
    learner = next(
        group for group in cluster()["spec"]["workerGroupSpecs"] if group["groupName"] == "learner"
    )
    assert job["clusterSelector"] == {"ray.io/cluster": name}
    assert (
        job["entrypointNumCpus"] == int(learner["rayStartParams"]["num-cpus"])
        and job["entrypointNumGpus"] == 1
    )


def test_nobody_but_its_own_pods_and_the_operator_reaches_the_cluster():
    spec, mine = (
        documents("kuberay/network-policy.yaml")[0]["spec"],
        {"ray.io/cluster": cluster()["metadata"]["name"]},
    )
    assert spec["podSelector"]["matchLabels"] == mine
    peers = [
        (rule["from"][0]["podSelector"]["matchLabels"], rule.get("ports"))
        for rule in spec["ingress"]
    ]
    assert (
        peers[0] == (mine, None)
        and peers[1][1] == [{"port": 8265, "protocol": "TCP"}]
        and len(peers) == 2
    )
    assert all(
        rule.get("to") or {port["port"] for port in rule["ports"]} <= {53, 443, 5353, 6443, 8443}
        for rule in spec["egress"]
    )


def test_the_launchers_file_follows_rays_own_schema():
    found = documents("cluster.yaml")[0]
    validate_config(prepare_config(found))
    found["dockers"] = {}
    with pytest.raises(jsonschema.ValidationError, match="dockers"):
        validate_config(found)


def test_the_launchers_head_does_no_work_and_starts_the_workers():
    found = documents("cluster.yaml")[0]
    start = next(line for line in found["head_start_ray_commands"] if "ray start" in line).split()
    assert "--num-cpus=0" in start and "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert found["auth"]["ssh_private_key"]  # the head gets a copy
    image = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"install .*openssh-client", image)
    # Its commands run in a login shell
    assert "export PATH=/venv/bin:$PATH' > /etc/profile.d/venv.sh" in image


def test_compose_keeps_token_and_dashboard_to_this_machine():
    compose = documents("compose.yaml")[0]
    head, worker = compose["services"]["head"], compose["services"]["worker"]
    assert (
        worker["deploy"]["replicas"] == 2
        and head["ports"] == ["127.0.0.1:8265:8265"]
        and "ports" not in worker
    )
    for service in (head, worker):
        assert service["environment"]["RAY_AUTH_MODE"] == "token" and service["secrets"] == [
            "ray_token"
        ]
        assert not any("token" in str(word).lower() for word in service["command"].split())
    assert "--num-cpus=0" in head["command"]
    assert compose["secrets"]["ray_token"] == {"file": "${RAY_TOKEN_FILE:?a file with the token}"}
    assert (DOCKER / "compose.yaml").parent / head["build"]["context"] / head["build"]["dockerfile"]


def test_no_token_is_written_into_a_file():
    for path in DOCKER.rglob("*"):
        if path.is_file():
            assert not re.search(
                r"RAY_AUTH_TOKEN[=:] *['\"]?[0-9a-zA-Z]{8}", path.read_text(errors="ignore")
            ), path
