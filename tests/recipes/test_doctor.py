"""`openmae doctor`: what it finds is there, each fault has its remedy, and nothing makes it hang or fall."""

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openmae.data.sources.selection import Selection
from openmae.distributed.ranks import Ranks
from openmae.errors import RUN_AGAIN, UserError
from openmae.machine import limits
from openmae.recipes.doctor import decoding as doctor_decoding
from openmae.recipes.doctor import devices as doctor_devices
from openmae.recipes.doctor import disk as doctor_disk
from openmae.recipes.doctor import exchange as doctor_ranks
from openmae.recipes.doctor import exchange_rank as doctor_rank
from openmae.recipes.doctor import job as doctor
from openmae.recipes.doctor import memory as doctor_memory
from openmae.recipes.doctor import software as doctor_software
from openmae.recipes.doctor.diagnosis import Diagnosis
from tests.commands import Run, refused
from tests.images import write_images
from tests.machine.groups import V2, laid_out

CHECKED = {"python", "packages", "extras", "device", "bf16", "cores", "memory", "disk", "space", "write", "rename"}
CHECKED |= {"lock", "decoding", "exchange"}
ALONE = ("--processes", 1)

pytestmark = pytest.mark.usefixtures("brief_doctor")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 1 MB, as where a disk or a quota is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def by_name(output: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(output)["findings"]}


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------- the whole


def test_this_machine_can_train(run: Run, tmp_path: Path) -> None:
    code, output, errors = run(
        "doctor", "--out", tmp_path / "not" / "yet", "--processes", 2, "--timeout", 120, "--json"
    )
    assert code == 0, output + errors
    found = json.loads(output)  # the whole output is that
    assert found["can_train"] is True
    assert {finding["name"] for finding in found["findings"]} == CHECKED
    for finding in found["findings"]:
        assert set(finding) == {"name", "verdict", "said", "remedy"}
        assert finding["verdict"] in ("ok", "warn"), finding
        assert finding["verdict"] == "ok" or finding["remedy"], finding
    assert torch.__version__.split("+")[0] in by_name(output)["packages"]["said"]
    assert re.search(r"[1-9][\d,]* images/s of photographs", by_name(output)["decoding"]["said"])
    assert "2 processes with gloo add up right" in by_name(output)["exchange"]["said"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_every_line_that_is_not_ok_has_a_remedy(run: Run, tmp_path: Path) -> None:
    code, output, errors = run("doctor", "--out", tmp_path, *ALONE)
    assert (code, errors) == (1, "")
    lines = output.splitlines()
    assert re.fullmatch(r"This machine cannot train as it is: 1 bad, \d+ to heed\.", lines[-1])
    faults = [number for number, line in enumerate(lines) if line.startswith(("warn ", "bad "))]
    assert faults
    for number in faults:
        assert re.match(r" +-> \S", lines[number + 1]), lines[number]
    (written,) = (line for line in lines if line.startswith("bad "))
    assert re.search(r"write +writing fails after 0 MB \(File too large\)", written)
    assert "ulimit -f" in lines[lines.index(written) + 1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_among_the_processes_of_a_run(tmp_path: Path) -> None:
    """As torchrun starts them: one says what it finds, the other answers it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    first, second = ({**env, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1"))
    other = subprocess.Popen([*doctor_ranks.WORKER, "cpu", "60"], env=second)
    words = ["doctor", "--out", str(tmp_path), "--timeout", "120", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "openmae", *words], env=first, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes of torchrun with gloo add up right" in by_name(done.stdout)["exchange"]["said"]
    assert other.wait(60) == 0


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    words = ["--standalone", "--nproc-per-node", "2", "-m", "openmae", "doctor", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes of torchrun with gloo add up right") == 1
    assert done.stdout.count("This machine can train") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timeout", "0"], "--timeout is 0: give a number of seconds above 0"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--processes", "0"], "--processes is 0: give 1 or more"),
        (["--tiemout", "3"], "did you mean --timeout?"),
    ],
)
def test_bad_input_is_refused(run: Run, words: list[str], said: str) -> None:
    refused(run("doctor", *words), said)


def test_without_a_torch_that_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    done = subprocess.run(
        [sys.executable, "-m", "openmae", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    bad = [finding for finding in json.loads(done.stdout)["findings"] if finding["verdict"] == "bad"]
    assert "torch cannot be imported (ImportError: libcudart.so.12: cannot open" in bad[0]["said"]
    assert "pytorch.org" in bad[0]["remedy"]


# ---------------------------------------------------------------- a check by itself


def test_what_raises_or_hangs_is_a_finding() -> None:
    def refuse() -> list[Diagnosis]:
        raise UserError("there are 3: of them, one is broken", "mend it")

    def fall() -> list[Diagnosis]:
        raise ZeroDivisionError("division by zero\nmore")

    def hang() -> list[Diagnosis]:
        time.sleep(60)
        return []

    assert doctor.within(5, "a", refuse) == [Diagnosis("a", "bad", "there are 3: of them, one is broken", "mend it")]
    (fallen,) = doctor.within(5, "b", fall)
    assert fallen.said == "it could not be checked (ZeroDivisionError: division by zero)"
    assert (fallen.verdict, bool(fallen.remedy)) == ("warn", True)
    began = time.monotonic()
    (hung,) = doctor.within(0.2, "c", hang)
    assert time.monotonic() - began < 50
    assert (hung.name, hung.verdict, hung.said) == ("c", "bad", "the check did not end within 0.2 s")
    assert hung.remedy


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "torch>=99",
        "numpy>=1.26",
        "none-such>=1",
        "no-reader>=2; extra == 'tiff'",
        "pillow>=999; extra == 'heif'",
        "openmae[tiff]; extra == 's3'",
        "rich; extra == 'parquet'",
        "no-tool; extra == 'dev'",
    ]
    monkeypatch.setattr(doctor_software.metadata, "requires", lambda _: asked)
    found = doctor_software.software()
    (packages,) = (one for one in found if one.name == "packages")
    assert packages.verdict == "bad"
    assert f"torch is {torch.__version__.split('+')[0]}" in packages.said
    assert "none-such is not installed" in packages.said
    assert packages.remedy == "pip install --upgrade 'torch>=99' 'none-such>=1'"
    absent, old = (one for one in found if one.name == "extras")
    assert absent.verdict == "ok"
    assert "; not installed: " in absent.said
    missing = absent.said.partition("not installed: ")[2].split(", ")
    assert "'no-reader>=2'" in absent.remedy
    assert ("tiff" in missing, "s3" in missing, "parquet" in missing, "dev" in missing) == (True, True, False, False)
    assert old.verdict == "warn"
    assert old.said.startswith("of heif, pillow is ")
    assert old.remedy == "pip install --upgrade 'pillow>=999'"


def test_a_driver_that_this_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)\n"
        "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
    )
    monkeypatch.setattr(doctor_devices, "NVIDIA_DRIVER", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (of_cpus,) = doctor_devices.devices()
    assert of_cpus.verdict == "bad"
    assert "NVIDIA's driver 570.86.15 is there, but torch" in of_cpus.said
    assert "a build for CPUs" in of_cpus.said
    assert of_cpus.remedy

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    (refusing,) = doctor_devices.devices()
    assert refusing.verdict == "bad"
    assert refusing.said.endswith("too old (found version 11040).")
    assert "update the driver" in str(refusing.remedy)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (hidden,) = doctor_devices.devices()
    assert (hidden.verdict, hidden.remedy) == ("warn", "unset CUDA_VISIBLE_DEVICES")


# ---------------------------------------------------------------- images


def test_your_own_images(run: Run, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 6)
    (tmp_path / "images/class0/broken.jpg").write_bytes(b"no image")
    code, output, _ = run("doctor", "--data", tmp_path / "images", "--out", tmp_path, "--json", *ALONE)
    assert code == 0
    seen, rate = by_name(output)["data"], by_name(output)["decoding"]
    assert seen["verdict"] == "warn"
    assert "7 images in" in seen["said"]
    assert "24 x 20 pixels, 3 channels; 1 of 7 tried cannot be read" in seen["said"]
    assert "broken.jpg" in seen["said"]
    assert seen["remedy"].startswith("openmae check ")
    assert re.search(r"[\d,]+ images/s of these images with \d+ process", rate["said"])


def test_images_that_are_not_there(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("doctor", "--data", tmp_path / "nowhere", "--out", tmp_path, "--json", *ALONE)
    assert code == 1
    found = by_name(output)["decoding"]
    assert found["verdict"] == "bad"
    assert found["said"] == f"{tmp_path / 'nowhere'} does not exist"
    assert found["remedy"].startswith("give a folder of images")


def test_slow_decoding_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_decoding, "SLOW", 1e9)
    (found,) = doctor_decoding.decoding(None, Selection())
    assert found.verdict == "warn"
    assert "openmae pack" in str(found.remedy)


# ---------------------------------------------------------------- the disk


def test_a_folder_that_cannot_be_written(run: Run) -> None:
    code, output, _ = run("doctor", "--out", "/sys/runs", "--json", *ALONE)  # root may not either
    assert code == 1
    found = by_name(output)["disk"]
    assert found["verdict"] == "bad"
    assert found["said"].startswith("/sys cannot be written (")
    assert "another --out" in found["remedy"]


def test_a_file_is_no_folder() -> None:
    assert doctor_disk.disk(Path(__file__) / "runs") == [
        Diagnosis("disk", "bad", f"{__file__} is a file", "give a folder as --out")
    ]


@pytest.mark.parametrize(("bytes_a_parameter", "verdict"), [(10**9, "bad"), (1, "ok")])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_a_parameter: int, verdict: str) -> None:
    monkeypatch.setattr(doctor_disk, "RUN_BYTES", bytes_a_parameter)
    (found,) = (one for one in doctor_disk.disk(tmp_path) if one.name == "space")
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict == "bad")


def test_a_disk_that_gives_back_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    synced = os.fsync

    def damage(descriptor: int) -> None:
        synced(descriptor)
        with Path(f"/proc/self/fd/{descriptor}").resolve().open("r+b") as file:
            file.seek(100)
            file.write(b"x")

    monkeypatch.setattr(os, "fsync", damage)
    (found,) = doctor_disk.speed(tmp_path)
    assert found.verdict == "bad"
    assert "not what was written" in found.said


@pytest.mark.parametrize(
    ("script", "verdict", "said"),
    [
        ("raise OSError(37, 'No locks available')", "bad", "a file cannot be locked (OSError: [Errno 37] No locks"),
        ("import time; time.sleep(60)", "bad", "a file's lock was not given within 1 s"),
        ("import sys; sys.exit(1)", "warn", "two processes get the lock of one file"),
    ],
)
def test_locks(script: str, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_disk, "LOCKS", script)
    monkeypatch.setattr(doctor_disk, "LOCK_SECONDS", 1.0)
    (found,) = (one for one in doctor_disk.disk(tmp_path) if one.name == "lock")
    assert found.verdict == verdict
    assert found.said.startswith(said)
    assert found.remedy


def test_what_is_mounted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw,relatime,lowerdir=/var/lib/docker/overlay2/l/ABC,upperdir=/x 0 0\n"
        "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"
        "/dev/nvme0n1p2 /data ext4 rw,relatime 0 0\n"
        "filer:/export/my\\040runs /data/my\\040runs nfs4 rw,relatime,vers=4.2,hard,proto=tcp 0 0\n"
        "10.0.0.1@tcp:/scratch /scratch lustre rw,flock,lazystatfs 0 0\n"
        "/dev/sdb1 /mnt xfs rw 0 0\n"
        "s3fs /mnt fuse.s3fs rw,nosuid,nodev,relatime,user_id=0,group_id=0 0 0\n"
    )
    for place, found in {
        "/": ("overlay", "overlay"),
        "/database": ("overlay", "overlay"),
        "/data/runs": ("/dev/nvme0n1p2", "ext4"),
        "/data/my runs/first": ("filer:/export/my runs", "nfs4"),
        "/scratch": ("10.0.0.1@tcp:/scratch", "lustre"),
        "/mnt/x": ("s3fs", "fuse.s3fs"),  # the later one hides the other
    }.items():
        assert doctor_disk.filesystem(Path(place), mounts) == found
    assert doctor_disk.filesystem(Path("/"), tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("kind", "verdict", "said"),
    [
        ("ext4", "ok", "ext4, on there"),
        ("nfs4", "ok", "over a network"),
        ("lustre", "ok", "over a network"),
        ("fuse.s3fs", "warn", ""),
        ("overlay", "warn", ""),
        ("tmpfs", "warn", ""),
    ],
)
def test_kinds_of_disks(kind: str, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(f"there / {kind} rw 0 0\n")
    monkeypatch.setattr(doctor_disk, "MOUNTS", tmp_path / "mounts")
    found = doctor_disk.disk(tmp_path)[0]
    assert found.verdict == verdict
    assert said in found.said
    assert bool(found.remedy) == (verdict == "warn")


# ---------------------------------------------------------------- memory and cores


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    for available, verdict in ((5 * 10**8, "bad"), (2 * 10**9, "warn"), (32 * 10**9, "ok")):
        laid_out(tmp_path, {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {available // 1024} kB\n"})
        (found,) = doctor_memory.memory()
        assert found.verdict == verdict
        assert bool(found.remedy) == (verdict != "ok")


def test_a_quota_of_cores_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOT", laid_out(tmp_path, {**V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}))
    (found,) = doctor_memory.cores()
    assert found.verdict == "warn"
    assert "a quota allows 0.5" in found.said
    assert "at most 1" in str(found.remedy)


# ---------------------------------------------------------------- the exchange

SLEEP = "time.sleep(100)"


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank_0: str, rank_1: str) -> None:
    """Has the ranks do this instead of what they should."""
    script = tmp_path / "rank.py"
    script.write_text(
        f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n    {rank_0}\nelse:\n    {rank_1}\n"
    )
    monkeypatch.setattr(doctor_ranks, "WORKER", (sys.executable, str(script)))


def joining(then: str) -> str:
    return f"print({doctor_rank.STAGES[1]!r}, flush=True); {then}"


def test_a_rank_that_hangs_is_named_in_time(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, joining(SLEEP), SLEEP)
    began = time.monotonic()
    (found,) = doctor_ranks.exchange(2, timeout=2)
    assert 2 <= time.monotonic() - began < 80
    assert found.verdict == "bad"
    named = re.fullmatch(
        r"2 processes with gloo: after 2 s, rank 1 \(process (\d+)\) is still at its start", found.said
    )
    assert named is not None, found.said
    assert not is_running(int(named[1]))
    assert "GLOO_SOCKET_IFNAME" in str(found.remedy)


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "said"),
    [
        (joining(SLEEP), "sys.exit('no such library')", r"ended with exit code 1 at its start: no such library"),
        (SLEEP, joining("os.kill(os.getpid(), signal.SIGKILL)"), r"was killed by SIGKILL at joining the others"),
        (f"sys.exit({RUN_AGAIN})", "sys.exit(3)", r"ended with exit code 3 at its start"),
    ],
)
def test_a_rank_that_dies_is_named_at_once(
    rank_0: str, rank_1: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, rank_0, rank_1)
    began = time.monotonic()
    (found,) = doctor_ranks.exchange(2, timeout=60)
    assert time.monotonic() - began < 55
    assert found.verdict == "bad"
    assert re.fullmatch(rf"2 processes with gloo: rank 1 \(process \d+\) {said}", found.said), found.said
    assert found.remedy


def test_the_exchange_decides_the_exit_code(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, "sys.exit(1)", "sys.exit(1)")
    code, output, _ = run("doctor", "--out", tmp_path, "--json", "--processes", 2)
    assert code == 1
    assert json.loads(output)["can_train"] is False
    assert by_name(output)["exchange"]["verdict"] == "bad"


def test_a_wrong_sum_is_refused() -> None:
    class Deaf(Ranks):
        def sum(self, values: Tensor) -> Tensor:
            return values

    with pytest.raises(UserError, match=r"rank 0 got the sum \[1.0\] instead of 3"):
        doctor_rank.measure(Deaf(0, 2), torch.device("cpu"))


def test_a_slow_exchange_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, """print('{"small": 0.1, "large": 8.0}')""", "pass")
    (found,) = doctor_ranks.exchange(2, timeout=60)
    assert found.verdict == "warn"
    assert "4 bytes in 1e+02 ms, 16 MB in 8e+03 ms (2 MB/s a link)" in found.said
    assert found.remedy
