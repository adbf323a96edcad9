"""Control groups as Linux shows them, in a folder that stands for /."""

from pathlib import Path

V1 = {"proc/self/cgroup": "12:memory:/docker/4f2e\n7:cpu,cpuacct:/docker/4f2e\n1:name=systemd:/docker/4f2e\n0::/host\n"}
V2 = {"proc/self/cgroup": "0::/user.slice/job_7/step_0\n"}


def laid_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root
