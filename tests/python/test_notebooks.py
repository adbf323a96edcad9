"""In a real kernel: a bar that moves, a cell that is stopped and goes on; and the notebooks of examples/."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import openmae
from tests.images import write_images
from tests.python.test_calls import SMALL

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

pytestmark = pytest.mark.filterwarnings("ignore")  # of Jupyter's own


def executed(cells: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """What each cell put out."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, coalesce_streams=True).execute()
    return [cell["outputs"] for cell in notebook.cells]


TRAINING = f"""
import os, signal, threading, time
import openmae

small = dict(epochs=200, **{SMALL!r} | {{"workers": 2}})
before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
signal.set_wakeup_fd(before[1])
"""
STOPPED = """
def stop():
    while not os.path.exists("run/metrics.jsonl"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop).start()
run = openmae.pretrain("images", out="run", **small)
run
"""
AFTER = """
now = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
signal.set_wakeup_fd(now[1])
assert now == before
assert 0 < run.step < run.steps == 225, run.step
try:
    openmae.knn(run, "images")
except openmae.UserError as error:
    print(error)
"""
ON = """
again = openmae.pretrain("images", out="run", **small | {"batch_size": 8})
assert again.is_complete
"""


@pytest.mark.slow
def test_a_cell_is_stopped_and_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 10)
    _, stopped, after, on = executed([TRAINING, STOPPED, AFTER, ON], tmp_path)
    for outputs in (stopped, on):
        assert len(outputs) <= 6
        (bar,) = (one for one in outputs if one["output_type"] == "display_data")
        assert "<progress" in bar["data"]["text/html"]
    *_, shown = stopped
    assert "svg" in shown["data"]["text/html"]
    assert "stopped at step" in shown["data"]["text/plain"]
    said = "".join(one.get("text", "") for one in stopped)
    assert "which is saved; the same call goes on from there." in said
    (refusal,) = after
    found = re.search(r"has taken (\d+) of its 225 steps", refusal["text"])
    assert found is not None
    assert f"Going on with the run in run: {found[1]} of 225 steps are taken" in "".join(
        one.get("text", "") for one in on
    )
    bar = next(one for one in on if one["output_type"] == "display_data")
    assert bar["data"]["text/plain"].startswith("step 225/225 · ")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_as_it_is_to_be_read(file: Path) -> None:
    """Without outputs; its calls have the keywords that there are."""
    notebook = json.loads(file.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert len(notebook["cells"]) > len(code) > 3
    found = 0
    for node in ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in code))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("openmae."):
            known = inspect.signature(getattr(openmae, ast.unparse(node.func).removeprefix("openmae."))).parameters
            assert {word.arg for word in node.keywords if word.arg} <= set(known)
            found += 1
    assert found >= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(file, 4)
    executed([cell["source"] for cell in notebook.cells if cell["cell_type"] == "code"], tmp_path)
