"""Checkpoints are whole or not there, and damage is noticed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from openmae.train.checkpoint import newest_checkpoint, snapshot, write_checkpoint
from openmae.train.learner import Learner
from tests.processes import run_openmae
from tests.train.tasks import no_loss

KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from openmae.train import checkpoint as c
from openmae.train.learner import Learner

folder = Path(sys.argv[1])

def setup(value):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.nn.init.constant_(model.weight, value)
    return model, optimizer

def save(step):
    c.write_checkpoint(folder, c.snapshot(Learner(model, None), optimizer, step, {}, {}))

model, optimizer = setup(1.0)
save(1)
torch.nn.init.constant_(model.weight, 2.0)
for point in range(100):  # kill before, and after, the point-th touch of the disk
    child = os.fork()
    if child == 0:
        count = iter(range(1000))
        def deadly(original):
            def call(*args, **kwargs):
                if next(count) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)
            return call
        for name in ("open", "write", "fsync", "rename", "mkdir", "rmdir", "unlink", "close"):
            setattr(os, name, deadly(getattr(os, name)))
        c.write_synced = deadly(c.write_synced)
        save(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found, complaints = c.newest_checkpoint(folder)
    assert not complaints, complaints
    assert found.weights["weight"].unique().item() == found.step, found
    print(point, found.step, flush=True)
    if status == 0:
        break
    import shutil
    shutil.rmtree(folder / "step-00000002", ignore_errors=True)
else:
    sys.exit("never finished")
"""


def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    done = run_openmae([str(tmp_path)], code=KILLED_WHILE_SAVING)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) > 10  # points at which it was killed
    assert {step for _, step in found} == {"1", "2"}
    assert found[0][1] == "1"


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "empty", "no checksums", "bad json"])
def test_damage_is_noticed_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for step in (1, 2, 3):
        taken = snapshot(Learner(model, no_loss), optimizer, step, {"loss_sum": 0.5}, {})
        assert taken is not None
        write_checkpoint(tmp_path, taken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    weights = tmp_path / "step-00000003/model.safetensors"
    data = bytearray(weights.read_bytes())
    match damage:
        case "flip":
            data[-3] ^= 4
            weights.write_bytes(data)
        case "truncate":
            weights.write_bytes(data[:-8])
        case "empty":
            weights.write_bytes(b"")
        case "missing":
            weights.unlink()
        case "no checksums":
            (tmp_path / "step-00000003/checksums.json").unlink()
        case "bad json":
            (tmp_path / "step-00000003/checksums.json").write_text("{")
    found, complaints = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 2
    assert len(complaints) == 1
    assert "step-00000003 is damaged" in complaints[0]
