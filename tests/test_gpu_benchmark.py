"""`benchmarks/gpu.sh`: its parts take no other with them, and what they found is put into its places."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = """
import json, sys, time
part, out = sys.argv[1], sys.argv[sys.argv.index("--out") + 1]
print("this is", part)
def note(**line):
    with open(f"{out}/results.jsonl", "a") as file:
        file.write(json.dumps({"part": part, **line}) + "\\n")
if part == "tests":
    sys.exit(3)
if part == "steps":
    note(race="first")
    time.sleep(600)
if part == "loader":
    sys.exit(75)
note(ended=True)
"""


@pytest.fixture
def _imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import each other as where they are started."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.mark.usefixtures("_imports")
def test_a_part_that_fails_or_hangs_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by a process of its own, which is killed when its time is over; the same command does what is left."""
    import gpu  # type: ignore[import-not-found]

    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/gpu_parts.py").write_text(PARTS)
    monkeypatch.setattr(gpu, "HERE", tmp_path / "scripts")
    monkeypatch.setattr(gpu, "LEAVE", 0.2)
    out = tmp_path / "out"
    assert gpu.main(["--out", str(out), "--seconds", "100", "--rehearse", "--parts", "tests", "loader", "cifar"]) == 0
    assert gpu.main(["--out", str(out), "--seconds", "8", "--rehearse", "--parts", "steps"]) == 0
    said = capsys.readouterr().out
    assert "tests: failed (exit code 3), see tests.log" in said
    assert "steps: stopped for want of time" in said
    assert "loader: not all of it for want of time" in said
    assert "cifar: done" in said
    assert (out / "loader.log").read_text() == "this is loader\n"
    lines = gpu.found(out)
    assert {"part": "steps", "race": "first"} in lines
    assert [line["part"] for line in lines if line.get("is_done")] == ["cifar"]
    with (out / "results.jsonl").open("a") as file:
        file.write('{"part": "lo')  # as a kill leaves it
    assert gpu.found(out) == lines
    assert gpu.main(["--out", str(out), "--seconds", "0", "--rehearse"]) == 0
    assert "cifar: done before" in capsys.readouterr().out


def result(contender: str, rate: float, ratio: float, memory: float) -> dict[str, Any]:
    return {
        "contender": contender,
        "micro_batch": 256,
        "images_per_second": rate,
        "ratio": ratio,
        "ratio_range": [ratio - 0.01, ratio + 0.01],
        "tflops": rate / 4,
        "matmul_tflops": 800.0,
        "peak_memory": memory,
        "estimated_memory": 2e10,
    }


def table(title: str, *results: dict[str, Any], failed: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    reference = results[-1]["contender"]
    return {"title": title, "reference": reference, "results": results, "failed": failed, "matmul_tflops": 800.0}


FOUND: list[dict[str, Any]] = [
    {"part": "tests", "machine": "a GPU", "passed": 20, "failed": ["test_compiled"], "skipped": []},
    {
        "part": "steps",
        "race": "large",
        "section": "1",
        "device": "cuda",
        "machine": "a GPU",
        "peak_tflops": 990.0,
        "table": table(
            "vit_large, 224 pixels",
            result("openmae, compiled", 2400, 3.0, 1.5e10),
            result("openmae", 1800, 2.25, 2.1e10),
            result("transformers", 800, 1.0, 4e10),
            failed=(("transformers, compiled", "out of memory"),),
        ),
    },
    {
        "part": "steps",
        "race": "large, mask tokens",
        "section": "2",
        "device": "cuda",
        "machine": "a GPU",
        "peak_tflops": 990.0,
        "table": table("vit_large, mask tokens", result("encoded", 500, 1.0, 9e10), result("without", 1600, 3.2, 2e10)),
    },
    {
        "part": "loader",
        "machine": "a GPU",
        "cores": 16,
        "photos": 512,
        "rates": {"released": [100, 200], "openmae": [600, 600]},
    },
    {"part": "cifar", "training": "cifar-classes", "minutes": 2.5},
    {
        "part": "cifar",
        "training": "cifar-classes",
        "ended": True,
        "figures": {"top1": 0.91},
        "steps": 1000,
        "machine": "a",
    },
    {"part": "cifar", "is_done": True, "seconds": 3.0, "exit_code": 0},
]


@pytest.mark.usefixtures("_imports")
def test_what_was_found_is_put_into_its_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stood there of a CPU stays, what an earlier GPU left goes."""
    import merge  # type: ignore[import-not-found]

    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in FOUND))
    results = tmp_path / "RESULTS.md"
    results.write_text(
        "# Results\n\n## Mine\n\n<!-- step: begin -->\n<!-- step cpu 1 -->\nof a CPU\n<!-- step: end -->\n"
    )
    for _ in range(2):
        assert merge.main([str(tmp_path), "--results", str(results)]) == 0
    text = results.read_text()
    assert text.count("### vit_large, 224 pixels") == text.count("## On a GPU") == text.count("## Mine") == 1
    assert "of a CPU" in text
    assert "| openmae, compiled | 2,400 | 3.00 (2.99 to 3.01) | 600 | 60.6% | 75% | 15.00 GB | 0.38 |" in text
    assert "transformers, compiled failed: out of memory." in text
    assert "| ViT-L, MFU in bfloat16, compiled | 60% | 60.6% |" in text
    assert "| ViT-L beside transformers, both eager | 2 times | 2.25 times |" in text
    assert "| CIFAR-10, top-1 | 94% within 30 minutes | 91.0% |" in text
    assert "20 passed, failed: `test_compiled`" in text
    assert "| openmae | 600 | 9,600 | 4.00 |" in text
    assert merge.main([str(tmp_path / "nothing")]) == 2
    capsys.readouterr()
    (tmp_path / "results.jsonl").write_text(json.dumps({**FOUND[1], "device": "cpu", "peak_tflops": None}))
    assert merge.main([str(tmp_path)]) == 2
    assert "is a rehearsal" in capsys.readouterr().out
