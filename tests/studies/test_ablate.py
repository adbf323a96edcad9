"""`openmae ablate`: a study of small trainings, what it leaves, what it refuses; the studies that have a name."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import openmae
from openmae.data.opening import open_data
from openmae.data.sources.groups import groups_of
from openmae.errors import UserError
from openmae.python.keywords import settings_of
from openmae.recipes.pretrain.build import stream_of
from openmae.studies.ablate import job
from openmae.studies.ablate.grid import check_names, folder_name, study_of
from openmae.studies.ablate.named import STUDIES
from openmae.studies.ablate.settings import Ablate
from openmae.studies.ablate.trainings import Tuned, of_part, part_of_images, trained, tuned
from openmae.studies.base import base_of
from openmae.studies.given import in_common
from openmae.studies.judging import means_of
from openmae.studies.opened import open_all
from openmae.train.run import read_config
from tests.commands import Run, refused, words
from tests.processes import run_openmae, start_openmae, started_openmae, wait_for
from tests.runs import Runs, copy, done

SET = (
    "img_size=16 patch_size=4 embed_dim=24 depth=1 num_heads=2 decoder_embed_dim=16 decoder_depth=1 "
    "decoder_num_heads=2 batch_size=8"
).split()
QUICK = "--epochs 2 --seeds 2 --workers 0 --device cpu --precision fp32"
RATIOS = "--study mask-ratio --vary mask_ratio=0.5,0.75"


def ablate(data: object, out: object, *more: object) -> list[str]:
    return ["ablate", str(data), "--out", str(out), *words(QUICK, *more), "--set", *SET]


@pytest.fixture(scope="module")
def study(runs: Runs, colours: Path) -> Path:
    """Two mask ratios, two seeds, judged by classes."""
    return runs.once("ablated", lambda out: done(ablate(colours, out, RATIOS)))


def results(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "results.json").read_text())
    return found


def same(study: Path) -> dict[str, Any]:
    """What two studies of the same have in common: all but the time that it took."""
    return {name: value for name, value in results(study).items() if name not in ("runs", "progress")}


def test_it_is_a_folder_of_ordinary_runs_alike_but_for_what_varies(study: Path) -> None:
    configs = {run: read_config(study / run) for run in ("0.5/seed-0", "0.5/seed-1", "0.75/seed-0", "0.75/seed-1")}
    assert [(one["mask_ratio"], one["seed"]) for one in configs.values()] == [(0.5, 0), (0.5, 1), (0.75, 0), (0.75, 1)]
    alike = [{n: v for n, v in one.items() if n not in ("mask_ratio", "seed", "out")} for one in configs.values()]
    assert all(one == alike[0] for one in alike)
    assert alike[0]["epochs"] == 2
    assert {one["name"] for one in results(study)["runs"]} == {*configs}


def test_rows_are_judged_as_knn_judges_them_and_stand_beside_the_papers(
    study: Path, colours: Path, tmp_path: Path, run: Run
) -> None:
    model = copy(study / "0.5/seed-1", tmp_path / "run")
    code, _, errors = run("knn", model, colours, *words("--no-baselines --workers 0 --precision fp32"))
    assert code == 0, errors
    (said,) = json.loads((model / "evaluations.json").read_text())
    found = results(study)
    half, usual = found["rows"]
    assert half["of"]["knn"][1] == pytest.approx(said["top1"])
    assert (half["name"], usual["name"], found["usual"], found["complete"]) == ("0.5", "0.75", "0.75", True)
    assert (half["paper"]["linear"], usual["paper"]["linear"]) == (69.9, 73.5)  # Figure 5
    for figure in ("knn", "linear"):
        means = [float(np.mean(row["of"][figure])) for row in (half, usual)]
        assert half["against"][figure]["difference"] == pytest.approx(means[0] - means[1])
    assert usual["against"] == {}
    assert half["computing"] > 1 == usual["computing"]
    assert len(found["curve"]) == 10


def test_the_page_and_python_show_it(study: Path, tmp_path: Path, run: Run) -> None:
    page = (study / "report.html").read_text()
    for part in (
        "Figure 5",
        "69.9%",
        'href="0.5/seed-0/report.html"',
        "signs are compared, not values",
        "Two seeds give no bounds",
        'class="chart"',
    ):
        assert part in page
    svg = re.sub(r"</text>\n<text[^>]*>", " ", (study / "study.svg").read_text())  # lines below
    assert "signs are to be compared, not values" in svg
    mine = openmae.Study(study)
    assert mine.is_complete
    assert mine.verdict == results(study)["sentence"]
    rows = mine.table.to_dict("records")
    assert [(row["setting"], row["figure"]) for row in rows] == [
        (ratio, figure) for ratio in ("0.5", "0.75") for figure in ("knn", "linear")
    ]
    assert rows[1]["paper"] == pytest.approx(0.699)
    assert "data:image/svg+xml" in mine._repr_mimebundle_()["text/html"]
    again = copy(study, tmp_path / "again")
    for name in ("report.html", "study.svg"):
        (again / name).unlink()
    found = results(again)
    found |= {"complete": False, "progress": "5 of 8 parts done, 1 running, about 3 min left"}
    found["rows"][1] |= {"of": {"knn": [], "linear": []}, "failed": [{"part": "0.75/seed-0", "why": "it <collapsed>"}]}
    (again / "results.json").write_text(json.dumps(found))
    assert run("report", again)[0] == 0
    page = (again / "report.html").read_text()
    for part in ("5 of 8 parts done", "it &lt;collapsed&gt;", "<td>failed</td>"):
        assert part in page


def test_the_same_again_does_nothing_and_another_question_is_refused(
    study: Path, colours: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    mine = copy(study, tmp_path / "study")
    code, output, errors = run(*ablate(colours, mine, RATIOS))
    assert code == 0, errors
    assert " of 8: " not in output
    assert results(mine) == results(study)
    more = RATIOS.replace("0.75", "0.75,0.9")
    refused(run(*ablate(colours, mine, more)), "holds a study with rows = ['0.5', '0.75'], not", "choose another --out")
    refused(run(*ablate(colours, mine, RATIOS, "--epochs 3")), "epochs = 2.0, not 3.0")
    refused(run(*ablate(data, mine, RATIOS)), f"holds a study with data = {colours}, not {data}: choose another --out")
    assert results(mine) == results(study)


def test_other_code_and_changed_images_are_refused(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    """Runs of two states of the code are in one table only where that is asked for, and then it says so."""
    mine = copy(study, tmp_path / "study")
    asked = (mine / "study.toml").read_text()
    (mine / "study.toml").write_text(asked.replace('source = "', 'source = "dead'))
    refused(run(*ablate(colours, mine, RATIOS)), "was begun with other code", "source dead", "give --other-code")
    assert results(mine) == results(study)
    for part in (mine / "parts/judged").glob("*.json"):
        part.write_text(part.read_text().replace('"code": "', '"code": "dead'))
    code, output, errors = run(*ablate(colours, mine, RATIOS, "--other-code"))
    assert code == 0, errors
    assert "done by 2 different states of openmae's code" in output
    assert results(mine)["rows"] == results(study)["rows"]
    (mine / "study.toml").write_text(asked.replace('images = "', 'images = "dead'))
    refused(run(*ablate(colours, mine, RATIOS)), "the images have changed since the study", "or other labels")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--study mask-ration", ["--study is mask-ration", "mask-ratio"]),
        ("", ["nothing is to vary"]),
        ("--study target --finetune-epochs 2", ["--finetune-epochs is of --study partial"]),
        ("--study partial --finetune-epochs 0", ["--finetune-epochs is 0"]),
        ("--vary mask_ration=0.5,0.7", ["no setting 'mask_ration' of pretrain (did you mean mask_ratio?)"]),
        ("--vary mask_ratio=0.5,1.5", ["mask_ratio is 1.5", "below 1"]),
        ("--vary mask_ratio=0.5,many", ["--mask-ratio is many: give a number"]),
        ("--vary mask=random,blok", ["--mask is blok: give one of random, block"]),
        ("--study mask-ratio --vary mask_ratio=0.5", ["one setting, and nothing to compare it with"]),
        ("--vary mask_ratio=0.5", ["one setting, and nothing to compare it with"]),
        ("--vary mask_ratio=0.5,0.5", ["has a value twice"]),
        ("--vary mask_ratio", ["--vary is 'mask_ratio'", "SETTING=VALUE"]),
        ("--vary epochs=1,2", ["--vary has epochs", "--epochs of the study itself"]),
        ("--vary include=a,b", ["--vary has include", "as they are judged"]),
        ("--vary mask_ratio=0.5,0.99", ["mask_ratio 0.99 cannot be trained", "leaves 0 visible"]),
        ("--vary mask_unit=1,3", ["3 cannot be trained", "no whole mask units"]),
        ("--vary norm_pix_loss=true,maybe", ["norm_pix_loss is 'maybe': give true or false"]),
        ("--study target --vary mask_ratio=0.5,0.6", ["are two studies"]),
        ("--study mask-ratio --part 9/8", ["--part is '9/8'", "2/8"]),
        ("--study mask-ratio --part 1/2 --jobs 2", ["--part is for one process"]),
        ("--study mask-ratio --seeds 0", ["--seeds is 0"]),
        ("--study mask-ratio --minutes 3", ["--minutes and --epochs both say how long"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: str, said: list[str], colours: Path, tmp_path: Path, run: Run
) -> None:
    refused(run(*ablate(colours, tmp_path / "s", more)), *said)
    assert not (tmp_path / "s").exists()


def test_what_lies_elsewhere_is_refused(colours: Path, finished: Path, tmp_path: Path, run: Run) -> None:
    refused(
        run(*ablate(colours, copy(finished, tmp_path / "run"), RATIOS)), "is a run, and a study is a folder of runs"
    )
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(colours.rglob("*.png"))[:30]):
        shutil.copy(file, flat / f"{number}.png")
    refused(run(*ablate(flat, tmp_path / "s", "--study partial")), "there are no labels", "--labels")
    refused(run(*ablate(colours, tmp_path / "s", "--vary depth=1,2")), "depth is in --vary and in --set")


def test_a_row_that_fails_takes_none_down(
    study: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = copy(study, tmp_path / "study")
    for name in ("0.75/seed-1", "judged/0.75-seed-1"):
        (mine / f"parts/{name}.json").unlink()
    shutil.rmtree(mine / "0.75/seed-1")

    def collapsed(asked: Any, console: Console) -> dict[str, Any]:
        raise UserError("the loss is no number from step 7 on", "lower --blr")

    with monkeypatch.context() as patch:
        patch.setattr(job, "train", collapsed)
        code, output, errors = run(*ablate(colours, mine, RATIOS))
    assert code == 0, errors
    assert "0.75/seed-1 failed: the loss is no number from step 7 on: lower --blr" in output
    half, usual = results(mine)["rows"]
    assert [len(row["of"]["knn"]) for row in (half, usual)] == [2, 1]
    assert usual["failed"] == [{"part": "0.75/seed-1", "why": "the loss is no number from step 7 on: lower --blr"}]
    assert "difference" in half["against"]["knn"]
    code, _, errors = run(*ablate(colours, mine, RATIOS))
    assert code == 0, errors
    assert same(mine) == same(study)


@pytest.mark.slow
def test_ten_kills_leave_the_same_table(study: Path, colours: Path, tmp_path: Path) -> None:
    """Two processes share it, and are killed ten times; then two do the rest. That parts are shared and survive kills
    is test_study's, too."""
    mine, draws, killed = tmp_path / "s", random.Random(1), 0
    shares = [ablate(colours, mine, RATIOS, f"--part {number}/2") for number in (1, 2)]
    while killed < 10:
        with (tmp_path / "log").open("a") as log:
            both = [start_openmae(asked, log) for asked in shares]
        time.sleep(draws.uniform(1, 8))
        for process in both:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
        killed += 1
    with (tmp_path / "log").open("a") as log:
        both = [start_openmae(asked, log) for asked in shares]
    assert [process.wait(240) for process in both] == [0, 0], (tmp_path / "log").read_text()
    last = run_openmae(ablate(colours, mine, RATIOS))
    assert last.returncode == 0, last.stderr
    assert same(mine) == same(study)


@pytest.mark.slow
def test_jobs_share_it(study: Path, colours: Path, tmp_path: Path) -> None:
    found = run_openmae(ablate(colours, tmp_path / "s", RATIOS, "--jobs 2"))
    assert found.returncode == 0, found.stderr
    assert "2 processes share the work" in found.stdout
    assert "8 of 8 parts done" in found.stdout
    assert (tmp_path / "s/jobs/2.log").exists()
    assert same(tmp_path / "s") == same(study)  # one thread each, as all tests


@pytest.mark.slow
def test_jobs_end_with_the_process_that_started_them(colours: Path, tmp_path: Path) -> None:
    """It is killed; they save, so that the next start goes on."""
    mine, asked = tmp_path / "s", ablate(colours, tmp_path / "s", RATIOS, "--jobs 2 --epochs 2000 --seeds 1")
    with started_openmae(asked, tmp_path / "log") as starter:
        wait_for(lambda: len(list(mine.glob("*/seed-0/metrics.jsonl"))) == 2, starter)
        locks = [json.loads(lock.read_text()) for lock in mine.glob("parts/*/*.lock")]
        starter.kill()
    assert len({lock["pid"] for lock in locks} - {starter.pid}) == 2
    for lock in locks:
        wait_for(lambda pid=lock["pid"]: not is_alive(pid))
    assert all("which is saved" in (mine / f"jobs/{number}.log").read_text() for number in (1, 2))
    assert all(any(run.glob("checkpoints/step-*")) for run in mine.glob("*/seed-0"))


def is_alive(pid: int) -> bool:
    """Not so where it is dead and nobody has asked how it ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# ---------------------------------------------------------------- the studies that have a name


@pytest.mark.parametrize(
    "names", [("mask-token", "data-size", "decoder-width"), pytest.param(tuple(STUDIES), marks=pytest.mark.slow)]
)
def test_every_row_of_a_study_can_be_trained(names: tuple[str, ...], colours: Path) -> None:
    """With equal images a step and as many views, but where that is what varies."""
    sets = tuple(one for one in SET if not one.startswith(("depth=", "decoder_depth=")))
    given = {"data": str(colours), "out": "s", "epochs": 8.0, "set": sets, "device": "cpu", "workers": 0}
    first = settings_of("ablate", Ablate, {**given, "study": "target"})
    means = means_of(first, Console(quiet=True), {})
    base = base_of(first, in_common(first.set), open_data(str(colours)), means)
    for name in names:
        named = study_of(settings_of("ablate", Ablate, {**given, "study": name}))
        check_names(named.rows)
        found = {one.row.name: one for one in trained(base, named.rows, 8.0)}
        assert len({folder_name(one.row) for one in found.values()}) == len(named.rows)
        assert {one.asked.batch_size for one in found.values()} == {8}
        usual = found[named.usual].asked
        varied = {setting for row in named.rows for setting in (*row.changes, *row.scaled)}
        for one in found.values():
            times = one.row.epochs / one.row.images
            assert one.asked.epochs == pytest.approx((usual.epochs or 0) * times, rel=0.25)
            differing = {n for n in vars(one.asked) if getattr(one.asked, n) != getattr(usual, n)}
            assert differing <= varied | {"blr", "epochs"}
        if name in ("decoder-depth", "decoder-width", "schedule", "model-size"):
            by_size = sorted(found.values(), key=lambda one: one.row.at or 0)
            assert [one.work for one in by_size] == sorted(one.work for one in by_size)
        if name == "mask-token":
            assert found["encoder"].work > 2 * found["decoder"].work  # Table 1c: 3.3 for ViT-L


def test_values_without_the_usual_one_are_compared_with_the_first() -> None:
    asked = settings_of(
        "ablate", Ablate, {"data": "d", "out": "s", "study": "mask-ratio", "vary": ("mask_ratio=.5,.25",)}
    )
    named = study_of(asked)
    assert [row.name for row in named.rows] == ["0.25", "0.5"]
    assert named.usual == "0.25"
    assert named.rows[0].paper == {}
    assert named.rows[1].paper == {"finetuned": 84.9, "linear": 69.9}


def test_a_share_of_a_table_opens_whatever_was_asked_of_the_table(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images keep their groups, and its links their names."""
    files = sorted(colours.rglob("*.png"))
    (tmp_path / "store").write_bytes(files[0].read_bytes())
    (tmp_path / "link.png").symlink_to("store")
    rows = [f"{file},{file.parent.name},p{at % 20}" for at, file in enumerate([tmp_path / "link.png", *files[1:]])]
    (tmp_path / "t.csv").write_text("\n".join(["path,finding,patient", *rows]))
    monkeypatch.chdir(tmp_path)
    given = {"data": "t.csv", "out": "s", "epochs": 2.0, "set": SET, "device": "cpu", "workers": 0}
    columns = {"label_column": "finding", "group_column": "patient"}
    asked = settings_of("ablate", Ablate, {**given, **columns, "study": "data-size"})
    data = open_data(asked.data, asked.selection)
    base = base_of(asked, in_common(asked.set), data, means_of(asked, Console(quiet=True), {}))
    smaller = of_part(base.asked, part_of_images(base, 0.5, tmp_path / "data/half.csv"))
    half = open_data(smaller.data, smaller.selection, smaller.reading)
    assert len(half.train) == len(files) // 2
    assert {Path(half.train.file(at) or "") for at in range(len(half.train))} <= {tmp_path / "link.png", *files}
    before = {data.train.file(at): group for at, group in enumerate(groups_of(data.train, asked.selection) or [])}
    now = {half.train.file(at): group for at, group in enumerate(groups_of(half.train, smaller.selection) or [])}
    assert now.items() <= before.items()
    everything = part_of_images(base, 1.0, tmp_path / "data/all.csv")
    assert str(tmp_path / "link.png") in everything.read_text()


def test_shares_of_what_is_in_one_file_are_refused_at_once(tmp_path: Path, run: Run) -> None:
    np.savez(
        tmp_path / "all.npz",
        images=np.zeros((24, 16, 16, 3), np.uint8) + np.arange(24, dtype=np.uint8)[:, None, None, None],
    )
    refused(
        run(*ablate(tmp_path / "all.npz", tmp_path / "s", "--study data-size")),
        "does not hold images in files",
        "table",
    )
    assert not (tmp_path / "s").exists()


def test_fine_tunings_take_what_is_said(colours: Path) -> None:
    """By torch's own count of the operations."""
    given = {"data": str(colours), "out": "s", "set": SET, "device": "cpu", "workers": 0, "study": "partial"}
    free = settings_of("ablate", Ablate, {**given, "epochs": 8.0})
    means = means_of(free, Console(quiet=True), {})
    opened = open_all(free, means, "")
    assert opened.labelled is not None
    base = base_of(free, in_common(free.set), opened.data, means)
    encoder = base.planned(base.asked, base.images).architecture.build().encoder
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, *encoder.img_size))
    epoch = 3 * counter.get_total_flops() * len(opened.labelled.train)
    rows = [row for row in study_of(free).rows if row.name in ("0", "all")]

    def found(rate: float, **how_long: float) -> Tuned:
        asked = settings_of("ablate", Ablate, {**given, **how_long})
        return tuned(asked, base, rows, opened.labelled, rate)

    chosen = found(epoch, epochs=8.0)
    assert chosen.epochs is None
    usual = chosen.seconds["all"]  # an epoch takes a second
    assert usual >= 20
    assert chosen.seconds["0"] == pytest.approx(usual / 3)
    asked = found(epoch, finetune_epochs=3.0)
    assert asked.epochs == 3
    assert asked.seconds == pytest.approx({"0": 1, "all": 3}, rel=0.15)  # it does not count all of attention
    rate = epoch * usual / 120  # all of them take two minutes
    assert found(rate, minutes=1.0).epochs == pytest.approx(usual / 2, rel=0.15)
    assert found(rate, minutes=1.0).seconds["all"] == pytest.approx(60, rel=0.01)
    assert found(rate, minutes=3.0).epochs is None


def test_colours_are_jittered_and_nothing_else(colours: Path) -> None:
    """Views with a colour jitter (Table 1e) show the same crops with the same patches hidden, in other colours."""
    asked = settings_of(
        "ablate", Ablate, {"data": str(colours), "out": "s", "study": "augmentation", "set": SET, "workers": 0}
    )
    base = base_of(asked, in_common(asked.set), open_data(str(colours)), means_of(asked, Console(quiet=True), {}))
    rows = {row.name: row for row in study_of(asked).rows}
    plain, jittered, again = (
        next(stream_of(base.planned(one.asked, base.images), base.data.train, 0, Console(quiet=True)).batches(0, 1, 0))
        for name in ("random size", "random size, colours", "random size, colours")
        for one in trained(base, [rows[name]], 2.0)
    )
    assert torch.equal(plain.visible, jittered.visible)
    assert torch.equal(jittered.images, again.images)
    assert not torch.equal(plain.images, jittered.images)
    levels = [batch.images.double().mean((1, 2, 3)) for batch in (plain, jittered)]
    assert 0.002 < float((levels[0] - levels[1]).abs().mean()) / 255 < 0.4


def test_the_papers_figures_are_the_papers() -> None:
    """Some of Table 1, of 2111.06377: linear probe and fine-tuning."""
    of = {
        name: {row.name: (row.paper.get("linear"), row.paper.get("finetuned")) for row in one.rows}
        for name, one in STUDIES.items()
    }
    assert of["decoder-depth"]["1"] == (65.5, 84.8)
    assert of["decoder-width"]["2x"] == (73.1, 84.3)
    assert of["mask-token"]["encoder"] == (59.6, 84.2)
    assert of["target"]["normalised"] == (73.9, 85.4)
    assert of["augmentation"]["none"] == (65.7, 84.0)
    assert of["augmentation"]["random size, colours"] == (71.9, 84.3)
    assert of["sampling"]["block 75%"] == (63.9, 82.8)
    assert of["partial"]["0.5"] == (None, 79.1)
    assert all(
        one.get("linear", 73.5) == 73.5
        for name in ("decoder-depth", "decoder-width", "mask-token", "sampling", "mask-ratio", "schedule")
        for row in STUDIES[name].rows
        for one in [row.paper]
        if row.name == STUDIES[name].usual
    )


def test_a_grid_of_several_settings(tmp_path: Path) -> None:
    asked = settings_of(
        "ablate",
        Ablate,
        {"data": "d", "out": "s", "vary": ["mask_ratio=0.6,0.75", "target=hog,pixel", "crop_scale=0.5 1"]},
    )
    named = study_of(asked)
    assert [row.name for row in named.rows] == [
        f"mask_ratio {ratio}, target {target}, crop_scale 0.5 1"
        for ratio in ("0.6", "0.75")
        for target in ("hog", "pixel")
    ]
    assert named.rows[0].changes == {"mask_ratio": 0.6, "target": "hog", "crop_scale": (0.5, 1.0)}
    assert folder_name(named.rows[0]) == "mask_ratio-0.6-target-hog-crop_scale-0.5-1"
    assert named.usual == named.rows[0].name  # none has all the defaults
    schedules = settings_of(
        "ablate", Ablate, {"data": "d", "out": "s", "vary": ["mask_schedule=linear,cosine", "mask_ratio_end=0.9"]}
    )
    assert [row.changes["mask_schedule"] for row in study_of(schedules).rows] == ["linear", "cosine"]


@pytest.mark.slow
def test_partial_fine_tuning_data_size_and_no_labels(colours: Path, tmp_path: Path, run: Run) -> None:
    tiny = "--epochs 2 --seeds 1"
    code, output, errors = run(*ablate(colours, tmp_path / "partial", "--study partial", tiny, "--finetune-epochs 3"))
    assert code == 0, errors
    assert "those of the fine-tunings about" in output
    assert read_config(tmp_path / "partial/finetuned/all-seed-0")["epochs"] == 3
    other = ablate(colours, tmp_path / "partial", "--study partial", tiny, "--finetune-epochs 4")
    refused(run(*other), "finetune_epochs")
    found = results(tmp_path / "partial")
    assert [row["name"] for row in found["rows"]] == ["0", "0.5", "all"]
    assert all(len(row["of"]["finetuned"]) == 1 for row in found["rows"])
    assert "One seed" in output
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(colours.rglob("*.png"))):
        shutil.copy(file, flat / f"{number}.png")
    code, output, errors = run(*ablate(flat, tmp_path / "size", "--study data-size", tiny))
    assert code == 0, errors
    steps = {one["name"]: one["steps"] for one in results(tmp_path / "size")["runs"]}
    assert max(steps.values()) - min(steps.values()) <= 1
    assert len((tmp_path / "size/data/0.25.csv").read_text().splitlines()) == 1 + 12
    assert "No labels judged" in output
