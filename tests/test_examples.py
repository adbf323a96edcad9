"""The examples: their commands are run, or at least read as the programs that take them would read them."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from openmae.cli import read_settings
from openmae.errors import RUN_AGAIN
from tests.commands import TINY
from tests.images import write_images
from tests.recipes.slurm import FakeSlurm, wait_for

EXAMPLES = Path(__file__).parent.parent / "examples"
README = (EXAMPLES / "README.md").read_text()
SMALL = [*TINY, "--workers", "0"]


def test_the_readme_lists_all_examples() -> None:
    linked = set(re.findall(r"\]\(([\w.]+)\)", README))
    assert linked == {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    for test in re.findall(r"tests/[\w/]+\.py", README):
        assert (EXAMPLES.parent / test).exists()


@pytest.mark.parametrize("name", ["README.md", "kubernetes.yaml", "skypilot.yaml", "slurm.sbatch", "two_hosts.sh"])
def test_the_commands_can_be_read(name: str) -> None:
    """openmae's own, with a word for each of the shell's variables."""
    text = (EXAMPLES / name).read_text()
    if name == "kubernetes.yaml":
        worker = documents(name)[1]["spec"]["pytorchReplicaSpecs"]["Worker"]
        text = shlex.join(worker["template"]["spec"]["containers"][0]["command"])
    for shell, word in {"\\\n": " ", '"${@:3}"': "--batch-size 4096", '"$1"': "DATA", '"$2"': "RUN"}.items():
        text = text.replace(shell, word)
    commands = re.findall(r"(?:^| )(?:-m|ranked) openmae (\w+ [^\n`]*)", text)
    assert len(commands) == 1
    command, *words = shlex.split(commands[0])
    settings = read_settings(command, words)
    assert settings.data
    assert settings.out


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


# ---------------------------------------------------------------- two hosts


@contextmanager
def two_hosts() -> Iterator[tuple[str, list[list[str]], list[dict[str, str]]]]:
    """(what they are, for each what stands before its commands, and its environment). Network namespaces with names
    of their own, joined by a cable; where this machine has none, two of its own addresses."""
    tag = f"{os.getpid() % 100_000}"
    names = [f"host-a-{tag}", f"host-b-{tag}"]
    ends = [f"a{tag}", f"b{tag}"]
    hosts = [Path("/etc/netns") / name / "hosts" for name in names]
    try:
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end, file) in enumerate(zip(names, ends, hosts, strict=True), 1):
            ip("netns", "add", name)
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
            file.parent.mkdir(parents=True)
            file.write_text(f"127.0.0.1 localhost\n10.77.0.1 {names[0]}\n10.77.0.2 {names[1]}\n")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no network namespaces here: {error}")
        clean(names, ends, hosts)
        alone = {"GLOO_SOCKET_IFNAME": "lo"}
        yield (
            "two addresses",
            [[], []],
            [{**alone, "FIRST": "127.0.0.2", "PET_LOCAL_ADDR": f"127.0.0.{number}"} for number in (2, 3)],
        )
        return
    try:
        called = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
        before = [
            ["ip", "netns", "exec", name, "unshare", "--uts", sys.executable, "-c", called, name] for name in names
        ]
        yield "network namespaces", before, [{"FIRST": names[0]}] * 2
    finally:
        clean(names, ends, hosts)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def clean(names: list[str], ends: list[str], hosts: list[Path]) -> None:
    for words in (["netns", "del", names[0]], ["netns", "del", names[1]], ["link", "del", ends[0]]):
        if shutil.which("ip"):
            subprocess.run(["ip", *words], check=False, capture_output=True)
    for file in hosts:
        shutil.rmtree(file.parent, ignore_errors=True)


def on_hosts(
    before: list[list[str]], more: list[dict[str, str]], words: list[str], logs: Path, **env: str
) -> "list[subprocess.Popen[bytes]]":
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = []
    for number, (prefix, own) in enumerate(zip(before, more, strict=True)):
        with (logs / f"{number}.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*prefix, "bash", str(EXAMPLES / "two_hosts.sh"), *words],
                    env={**os.environ, **own, **env, "PATH": path, "GPUS": "1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


@pytest.mark.slow
def test_two_hosts_train_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "images", 16), tmp_path / "run"
    with two_hosts() as (what, before, env):
        with capsys.disabled():
            print(f"(two hosts: {what})", end=" ")
        jobs = on_hosts(before, env, [str(images), str(out), *SMALL, "--epochs", "3"], tmp_path)
        codes = [job.wait(180) for job in jobs]
    logs = [(tmp_path / f"{number}.log").read_text() for number in (0, 1)]
    assert codes == [0, 0], logs
    assert (out / "model.safetensors").exists()
    assert sum("The encoder is in" in log for log in logs) == 1  # one of them leads


@pytest.mark.slow
def test_one_of_two_hosts_may_leave(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images", 16), tmp_path / "run"
    words = [str(images), str(out), *SMALL, "--epochs", "1000", "--checkpoint-minutes", "0.01"]
    with two_hosts() as (_, before, env):
        jobs = on_hosts(
            before,
            env,
            [*words, "--timeout-minutes", "0.2"],
            tmp_path,
            NODES="1:2",
            PET_RDZV_CONF="last_call_timeout=3",
        )
        wait_for(lambda: any((out / "checkpoints").glob("step-*")), "checkpoint")
        jobs[1].send_signal(signal.SIGTERM)
        jobs[1].wait(60)
        assert jobs[0].wait(300) == 0, (tmp_path / "0.log").read_text()
    assert "Going on with the run" in (tmp_path / "0.log").read_text()
    assert (out / "model.safetensors").exists()


# ---------------------------------------------------------------- Slurm

OPTIONS = {  # of sbatch, as its manual has them: name: what its value looks like
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+(:\d+){0,2}",
    "signal": r"(B:|R:)?[A-Z0-9]+(@\d+)?",
    "requeue": r"",
    "open-mode": r"append|truncate",
    "output": r"\S+",
}


def test_the_sbatch_script_asks_for_what_sbatch_knows() -> None:
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    head, _, body = script.read_text().partition("\nexport")
    assert "#SBATCH" not in body  # sbatch reads options up to the first command
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", head, re.MULTILINE))
    assert len(options) == head.count("\n#SBATCH")
    for name, value in options.items():
        assert re.fullmatch(OPTIONS[name], value), name


@pytest.mark.slow
def test_the_sbatch_script_queues_a_saved_job_again(tmp_path: Path) -> None:
    slurm, out = FakeSlurm(tmp_path / "fake-slurm"), tmp_path / "run"
    images = write_images(tmp_path / "images", 16)
    words = [EXAMPLES / "slurm.sbatch", images, out, *SMALL]
    job = slurm.start(*words, "--epochs", "3000", nodes=2, tasks=2, cwd=tmp_path)
    wait_for((out / "metrics.jsonl").exists, "log")
    slurm.signal(signal.SIGUSR1)
    assert job.wait(60) == RUN_AGAIN
    assert slurm.asked == ["requeue 4711"]
    assert any((out / "checkpoints").glob("step-*"))
    job = slurm.start(*words, "--epochs", "-1", nodes=1, tasks=1, cwd=tmp_path)
    assert job.wait(60) == 2
    assert slurm.asked == ["requeue 4711"]  # what is wrong stays wrong


@pytest.mark.slow
def test_the_sbatch_script_leaves_a_cancelled_job_to_slurm(tmp_path: Path) -> None:
    slurm, out = FakeSlurm(tmp_path / "fake-slurm"), tmp_path / "run"
    images = write_images(tmp_path / "images", 16)
    job = slurm.start(
        EXAMPLES / "slurm.sbatch", images, out, *SMALL, "--epochs", "3000", nodes=1, tasks=1, cwd=tmp_path
    )
    wait_for((out / "metrics.jsonl").exists, "log")
    os.kill(job.pid, signal.SIGTERM)
    slurm.signal(signal.SIGTERM)
    wait_for(lambda: any((out / "checkpoints").glob("step-*")), "checkpoint")
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(5)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert slurm.asked == []


# ---------------------------------------------------------------- the clouds


def check(found: Any, schema: Any, place: str = "") -> None:
    """Asserts that everything found has its place in the schema: {field: schema}, [schema of each], a type, or a
    pattern."""
    if isinstance(schema, dict):
        assert isinstance(found, dict), place
        for key, value in found.items():
            assert key in schema, f"{place}.{key}"
            check(value, schema[key], f"{place}.{key}")
    elif isinstance(schema, list):
        assert isinstance(found, list), place
        for number, value in enumerate(found):
            check(value, schema[0], f"{place}[{number}]")
    elif isinstance(schema, str):
        assert isinstance(found, str), place
        assert re.fullmatch(schema, found), f"{place}: {found}"
    else:
        assert type(found) is schema, f"{place}: {found!r}"


NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
QUANTITY = r"\d+(\.\d+)?([KMGT]i?|m)?"
CONTAINER = {
    "name": "pytorch",  # PytorchJobDefaultContainerName
    "image": r"\S+",
    "command": [str],
    "env": [{"name": r"\w+", "value": str}],
    "resources": {"limits": {"nvidia.com/gpu": int, "cpu": int, "memory": QUANTITY}},
    "volumeMounts": [{"name": NAME, "mountPath": r"/\S*", "readOnly": bool}],
}
POD = {
    "terminationGracePeriodSeconds": int,
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": NAME,
            "persistentVolumeClaim": {"claimName": r"[A-Za-z0-9-]+", "readOnly": bool},
            "emptyDir": {"medium": "Memory", "sizeLimit": QUANTITY},
        }
    ],
}
# https://github.com/kubeflow/training-operator: pkg/apis/kubeflow.org/v1/pytorch_types.go and common_types.go
PYTORCHJOB = {
    "apiVersion": r"kubeflow\.org/v1",
    "kind": "PyTorchJob",
    "metadata": {"name": NAME},
    "spec": {
        "nprocPerNode": r"auto|cpu|gpu|\d+",  # a string
        "elasticPolicy": {
            "rdzvBackend": "c10d|etcd|etcd-v2",
            "minReplicas": int,
            "maxReplicas": int,
            "maxRestarts": int,
        },
        "runPolicy": {"cleanPodPolicy": "All|Running|None", "backoffLimit": int},
        "pytorchReplicaSpecs": {
            "Worker": {
                "replicas": int,
                "restartPolicy": "Always|OnFailure|Never|ExitCode",
                "template": {"spec": POD},
            }
        },
    },
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": NAME},
    "spec": {
        "accessModes": ["ReadWriteOnce|ReadOnlyMany|ReadWriteMany|ReadWriteOncePod"],
        "resources": {"requests": {"storage": QUANTITY}},
    },
}
# https://docs.skypilot.co: "SkyPilot YAML", "Managed Jobs", "Cloud Buckets"
SKYPILOT = {
    "name": r"[\w.-]+",
    "resources": {"accelerators": r"\w+:\d+", "use_spot": bool, "job_recovery": {"max_restarts_on_errors": int}},
    "file_mounts": {"/runs": {"source": r"s3://\S+", "mode": "MOUNT|COPY|MOUNT_CACHED"}},
    "setup": str,
    "run": str,
}


def test_the_kubernetes_job_has_the_fields_that_its_types_have() -> None:
    claim, job = documents("kubernetes.yaml")
    check(claim, CLAIM)
    check(job, PYTORCHJOB)
    policy, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] <= worker["replicas"] <= policy["maxReplicas"]
    assert worker["restartPolicy"] != "ExitCode"  # for which 75 would be the end
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    (variable,) = container["env"]
    assert 120 < int(variable["value"]) < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert claim["metadata"]["name"] in {
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    }


def test_the_skypilot_task_has_the_fields_that_its_documentation_has() -> None:
    (task,) = documents("skypilot.yaml")
    check(task, SKYPILOT)
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n", "-c", script], check=True)
    out = re.search(r"--out (\S+)", task["run"])
    assert out is not None
    assert any(out[1].startswith(f"{mount}/") for mount in task["file_mounts"])
