"""What README says is run: its commands as they stand (on a model made small by more flags), and its Python."""

import importlib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import tyro
from PIL import Image

import openmae
from openmae.cli import COMMANDS, main, module_of, read_settings
from openmae.commandline.words import refuse_unknown_flags
from openmae.errors import UserError
from openmae.recipes.pretrain.settings import Pretrain
from tests.commands import TINY, Run, finetune, pretrain
from tests.data import annotated
from tests.images import picture, write_images
from tests.scenes import scene, write_objects, write_scenes

pytestmark = pytest.mark.usefixtures("brief_doctor")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


MEASURED_SMALL = {  # what would measure a large model for minutes, or start other processes
    "doctor": ["--processes", "1"],
    "plan": "--model vit_tiny --img-size 32 --patch-size 16 --depth 1 --decoder-depth 1 --seconds 0.2".split(),
    "bench": ["--model", "vit_tiny", "--micro-batch", "1", "--rounds", "1", "--precision", "fp32"],
    "ablate": (
        "--vary mask_ratio=0.5,0.75 --epochs 1 --seeds 1 --precision fp32 --workers 0 --device cpu --set img_size=16 "
        "patch_size=8 embed_dim=24 depth=1 num_heads=2 decoder_embed_dim=16 decoder_depth=1 decoder_num_heads=2 "
        "batch_size=8"
    ).split(),
    "compare": (
        "--methods mae,random --epochs 1 --seeds 1 --rates 1 --finetune none --precision fp32 --workers 0 --device cpu "
        "--set img_size=16 "
        "patch_size=8 embed_dim=24 depth=1 num_heads=2 decoder_embed_dim=16 decoder_depth=1 decoder_num_heads=2 "
        "batch_size=8"
    ).split(),
    "adapt": "--epochs 1 --batch-size 8 --seeds 2 --no-scratch --few-labels none".split(),
}


def in_one_process(words: list[str]) -> list[str]:
    """The command without processes that load, which take longer to start than all of its work here."""
    asked = getattr(importlib.import_module(module_of(words[0])), COMMANDS[words[0]][1])
    return [*words, "--workers", "0"] if "workers" in asked.__dataclass_fields__ and "--workers" not in words else words


def test_the_readmes_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "your/images", 40)
    write_images(tmp_path / "labelled", 20)
    write_objects(tmp_path / "scenes", 4, 2)
    picture(1).save("photo.jpg")
    commands = re.findall(r"^openmae (?!COMMAND).*$", README, re.MULTILINE)
    run = {shlex.split(command)[1] for command in commands}
    assert run == set(COMMANDS) - {"quickstart"}
    for command in commands:
        words = shlex.split(command)[1:]
        if "imagenet" in words:  # a week on a GPU: that its flags exist has to do
            assert tyro.cli(Pretrain, args=words[1:]).recipe == "paper"
            continue
        if words[0] == "launch":  # it takes a cluster: test_launch.py runs it
            at = words.index("--")
            assert read_settings("launch", words[1:at]).nodes == 2
            assert read_settings(words[at + 1], words[at + 2 :]).data == "your/images"
            continue
        if words[0] == "demo":  # it serves until it is stopped: test_demo.py runs it
            assert read_settings("demo", words[1:]).open
            continue
        if words == ["bench"]:  # a process for each contender: test_bench.py runs it
            continue
        if words[0] == "adapt" or "onnx" in words:  # test_adapt.py and test_export_onnx.py run them, for seconds
            read_settings(words[0], words[1:])
            continue
        small = {
            "pretrain": [*TINY, *"--img-size 32 --epochs 1 --pictures 1 --evaluations 1".split()],
            "finetune": "--epochs 1 --batch-size 8 --precision fp32 --evaluations 1".split(),
            "segment": "--epochs 1 --batch-size 4 --precision fp32 --workers 0 --evaluations 1".split(),
            "detect": "--epochs 1 --batch-size 4 --precision fp32 --workers 0 --evaluations 1 --channels 8".split(),
            **MEASURED_SMALL,
        }.get(words[0], [])
        assert main(in_one_process([*words, *small])) == 0, capsys.readouterr().err
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(r"\(\), \(4, patches, values\)", code)
    assert "torch.Size([4, 64, 48]) torch.Size([4, 64])" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    [
        *("data.md", "doctor.md", "features.md", "going-on.md", "logging.md", "pack.md", "speed.md", "plan.md"),
        pytest.param("bench.md", marks=pytest.mark.slow),
    ],
)
def test_the_pages_commands_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "DATA", 40)
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):  # files that commands use
        Path(name).write_text(code)
    commands = re.findall(r"^openmae .*$", text, re.MULTILINE)
    assert len(commands) >= 2
    for number, command in enumerate(commands):
        words = [f"RUN{number}" if word == "RUN" else word for word in shlex.split(command)[1:]]
        words = [word for word in words if word != "--compile"]  # minutes: a slow test compiles
        if "--minutes" in words:  # these too: test_minutes.py
            at = words.index("--minutes")
            del words[at : at + 2]
        if page == "features.md" and "onnx" in words:  # test_probe.py exports one, for seconds
            assert read_settings(words[0], words[1:]).model.name == "neighbours"
            continue
        once = "--img-size 32 --epochs 1 --pictures 1 --evaluations 1".split()
        small = {"pretrain": [*TINY, *once], **MEASURED_SMALL}.get(words[0], [])
        if "paper" in words and words[0] == "probe":  # 90 epochs
            small = ["--epochs", "10"]
        assert main(in_one_process([*words, *small])) == 0, capsys.readouterr().err


def test_the_pages_of_outlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes", 6, 3)
    text = (Path(__file__).parent.parent / "docs/segment.md").read_text()
    (command,) = re.findall(r"^openmae pretrain .*$", text, re.MULTILINE)
    assert main([*shlex.split(command)[1:], *TINY, *"--epochs 1 --pictures 1 --evaluations 1 --workers 0".split()]) == 0
    commands = re.findall(r"^openmae segment .*$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        small = "--epochs 1 --batch-size 4 --precision fp32 --workers 0 --evaluations 1".split()
        assert main([*shlex.split(command)[1:], *small]) == 0, capsys.readouterr().err


def test_the_page_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = write_objects(tmp_path / "scenes", 8, 2)
    assert main(pretrain(scenes / "train" / "images", "runs/first")) == 0
    text = (Path(__file__).parent.parent / "docs/detect.md").read_text()
    commands = re.findall(r"^openmae detect .*$", text, re.MULTILINE)
    assert len(commands) == 4
    small = "--epochs 1 --batch-size 4 --precision fp32 --workers 0 --evaluations 1 --channels 8 --img-size 32".split()
    for command in commands:
        assert main([*shlex.split(command)[1:], *small]) == 0, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of the libraries that are shown there
def test_the_page_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exports in order, then its Python; what timm has to be told of a small model takes the page's place."""
    monkeypatch.chdir(tmp_path)
    labelled = write_images(tmp_path / "labelled", 24)
    picture(1).save("photo.jpg")
    assert main(pretrain(labelled, "runs/first", "--img-size 32")) == 0
    assert main(finetune("runs/first", labelled, "runs/classes", "--pool class --epochs 1")) == 0
    text = (Path(__file__).parent.parent / "docs/weights.md").read_text()
    commands = re.findall(r"^openmae export .*$", text, re.MULTILINE)
    formats = {shlex.split(command)[4] for command in commands}
    (dry_run,) = re.findall(r"^openmae push .*--dry-run .*$", text, re.MULTILINE)
    assert main(shlex.split(dry_run)[1:]) == 0
    assert formats == {"safetensors", "timm", "hf-mae", "hf-vit", "onnx", "pt2"}
    lines = {}
    for command in commands:
        capsys.readouterr()
        words = shlex.split(command)[1:]
        assert main(words) == 0, capsys.readouterr().err
        lines[words[words.index("--to") + 1]] = capsys.readouterr().out.strip().splitlines()[-1].strip()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 7
    create = re.compile(r"timm\.create_model\(.*\)")
    for block in blocks:
        exec(compile(create.sub(lambda _: lines["timm"], block), "weights.md", "exec"), {})


def test_the_page_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks one after the other, of a model and a training made small."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "labelled", "new"):
        write_images(tmp_path / name, 20)
    small: dict[str, Any] = {"epochs": 1, "workers": 0, "pictures": 1, "evaluations": 0}
    sizes = {name.strip("-").replace("-", "_"): word for name, word in zip(TINY[::2], TINY[1::2], strict=True)}
    sizes = {name: int(word) if word.isdecimal() else word for name, word in sizes.items()}

    def made_small(call: Any, less: dict[str, Any]) -> Any:
        return lambda *given, **settings: call(*given, **{**settings, **less})

    monkeypatch.setattr(openmae, "pretrain", made_small(openmae.pretrain, {**small, **sizes}))
    few = {"epochs": 1, "workers": 0, "batch_size": 8, "evaluations": 1}
    monkeypatch.setattr(openmae, "finetune", made_small(openmae.finetune, few))
    text = (Path(__file__).parent.parent / "docs/python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), "python.md", "exec"), {})
    assert "complete" in capsys.readouterr().out
    listed = set(re.findall(r"^\| `openmae\.(\w+)\(|`(\w+)\(model", text, re.MULTILINE))
    calls = {name for name, place in openmae._PLACES.items() if place.startswith("python") and name[0].islower()}
    assert {one or other for one, other in listed} == calls


def test_the_page_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Each tree has the files that it shows, and its command says what it was taken for and finds nothing wrong."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs/labels.md").read_text()
    forms = {
        "roads": annotated.semantic,
        "scenes": annotated.semantic_other_way_up,
        "palettes": annotated.semantic_palette,
        "colours": annotated.semantic_colours,
        "nuclei": annotated.numbered,
        "cellpose": annotated.cellpose,
        "two-kinds": annotated.numbered_by_class,
        "bowl": annotated.a_mask_an_object,
        "coco": annotated.coco_by_split,
        "roboflow": annotated.coco_as_roboflow,
        "one-file": annotated.coco_one_file,
        "yolo": annotated.yolo_polygons,
        "yolo-boxes": annotated.yolo_boxes,
        "voc": annotated.voc,
    }
    for name, write in forms.items():
        write(Path(name))
    trees = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    shown = [line.split()[0] for tree in trees for line in tree.splitlines()]
    assert {name.partition("/")[0] for name in shown} == {*forms}
    assert [name for name in shown if not Path(name).is_file()] == []
    commands = re.findall(r"^    openmae (check (?!DATA).*)$", text, re.MULTILINE)
    assert {command.split()[1].partition("/")[0] for command in commands} == {*forms}
    for command in commands:
        code, out, errors = run(*command.split(), "--workers", "0")
        assert code == 0, (command, out, errors)
        assert "Annotations: " in out, command


def test_create_model_as_in_the_readme() -> None:
    line = re.search(r"`(openmae\.create_model\(.*?\))`", README)
    assert line is not None
    model = eval(line[1], {"openmae": openmae})
    assert model.encoder.grid == (14, 10)
    assert model.encode(torch.zeros(1, 12, 224, 160)).shape == (1, 141, 768)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            place, _, anchor = target.partition("#")
            file = page.parent / place if place else page
            if re.match("https?:|mailto:", target):
                continue
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                lost.append(f"{page.name}: {target}")
    assert lost == []


def test_every_command_of_every_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are understood, whether it is run by another test or not."""
    monkeypatch.chdir(tmp_path)
    read = 0
    for page in PAGES:
        if page.name == "log.md":  # of commands that were
            continue
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^openmae (?!COMMAND).*$", block.replace("\\\n", " "), re.MULTILINE):
                words = shlex.split(line.partition(" #")[0])[1:]
                if words[0] == "launch":
                    at = words.index("--")
                    read_settings("launch", words[1:at])
                    words = words[at + 1 :]
                if "--config" in words:  # a file that another command has made
                    Path(words[words.index("--config") + 1]).touch()
                read_settings(words[0], words[1:])
                read += 1
    assert read > 140


AS_SMALL = "--epochs 1 --batch-size 4 --precision fp32 --workers 0".split()
SMALL = {
    "pretrain": [*TINY, "--epochs", "1", "--workers", "0", "--img-size", "32", "--patch-size", "8"],
    "finetune": [*AS_SMALL, "--folds", "0"],
    "segment": [*AS_SMALL, "--evaluations", "1"],
    "detect": [*AS_SMALL, "--evaluations", "1", "--channels", "8", "--img-size", "32"],
    **MEASURED_SMALL,
}


def write_micrographs(folder: Path) -> None:
    """Of some squares, each with a number of its own, and as many discs that are none."""
    for split, count in (("train", 8), ("val", 4)):
        draws = np.random.default_rng(count)
        for number in range(count):
            image, mask = np.zeros((160, 160, 3), np.uint8), np.zeros((160, 160), np.uint8)
            for place in range(8 + number):
                where = np.s_[place // 4 * 40 : place // 4 * 40 + 40, place % 4 * 40 : place % 4 * 40 + 40]
                image[where], classes = scene(draws, 40)
                mask[where] = (classes == 2) * (place + 1)
            for part, pixels in (("images", image), ("masks", mask)):
                file = folder / "annotated" / split / part / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    shutil.copytree(folder / "annotated/train/images", folder / "micrographs")


def write_scans(folder: Path) -> None:
    from tests.data.bad_files import dicom

    rows = ["path,label"]
    for patient in range(8):
        for number in range(3):
            file = folder / "scans" / f"patient{patient}" / f"{number}.dcm"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(3 * patient + number).integers(0, 2000, (40, 40)).astype(np.int16)
            file.write_bytes(dicom(pixels))
            rows.append(f"scans/{file.parent.name}/{file.name},{'finding' if patient % 2 else 'none'}")
    (folder / "findings.csv").write_text("\n".join(rows) + "\n")


def write_bands(folder: Path) -> None:
    (folder / "scenes").mkdir()
    for number in range(4):
        draws = np.random.default_rng(number)
        bands = (1000 + 300 * draws.standard_normal((160, 160, 13)).cumsum(0) / 8).clip(1, 9000).astype(np.uint16)
        tifffile.imwrite(folder / f"scenes/{number}.tif", bands, planarconfig="contig", photometric="minisblack")


def write_parts(folder: Path) -> None:
    write_images(folder / "sorted", 24)
    for old, new in (("class0", "fine"), ("class1", "defect")):
        (folder / "sorted" / old).rename(folder / "sorted" / new)
    shutil.copytree(folder / "sorted", folder / "parts")


def write_sets(folder: Path) -> None:
    write_images(folder / "images", 24)
    write_images(folder / "labelled", 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "write"),
    [
        ("for-microscopy.md", write_micrographs),
        ("for-radiology.md", write_scans),
        ("for-satellites.md", write_bands),
        ("for-factories.md", write_parts),
        ("for-research.md", write_sets),
    ],
)
def test_the_tutorials_run(
    page: str,
    write: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every command in order, as it stands but for flags that make it small."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    text = (ROOT / "docs" / page).read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        small = "img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1, "
        small += 'decoder_num_heads=2, epochs=1, batch_size=8, workers=0, precision="fp32", '
        exec(compile(code.replace('pretrain("images", ', f'pretrain("images", {small}'), page, "exec"), {})
    for command in re.findall(r"^openmae .*$", text, re.MULTILINE):
        words = shlex.split(command)[1:]
        for flag in ("--minutes", "--budget", "--study"):  # how long
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        small = SMALL.get(words[0], [])
        done = main([*words, *small[2 * ("--vary" in words) :]])
        assert done <= (words[0] == "check"), (command, capsys.readouterr().err)  # 1 is a warning of check's


def test_every_flag_in_the_text_exists() -> None:
    """Of commands that stand within a sentence, as those that are run do not."""
    unknown, seen = [], 0
    for page in PAGES:
        if page.name == "log.md":  # of flags that were
            continue
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for command, words in re.findall(r"`openmae ([a-z]+)((?:\s[^`]*)?)`", text):
            flags = re.findall(r"(?<=\s)--[a-z0-9-]+", words.partition(" -- ")[0])
            if command not in COMMANDS:
                unknown.append(f"{page.name}: openmae {command}")
                continue
            settings = importlib.import_module(module_of(command).replace(".job", ".settings"))
            try:
                refuse_unknown_flags(flags, getattr(settings, COMMANDS[command][1]))
            except UserError as refused:
                unknown.append(f"{page.name}: openmae {command}{words}: {refused}")
            seen += 1
    assert unknown == []
    assert seen > 50


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"openmae {name}" in capsys.readouterr().out
