"""The command line: its words, --config, --help, and what it refuses before it looks at anything."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from openmae.cli import COMMANDS, main, module_of
from openmae.commandline.help import field_texts
from tests.commands import TINY, Run, pretrain, refused, words


def test_help_comes_without_torch() -> None:
    check = (
        "import sys; from openmae.cli import main; main(['--help']); "
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib', 'tyro'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


def test_help_of_commands_comes_without_torch() -> None:
    """Of those whose settings have no numbers of the method's to check."""
    commands = ("evaluate", "export", "check", "pack", "doctor", "launch", "plan", "bench")
    check = (
        "import contextlib, sys; from openmae.cli import main\n"
        f"for command in {commands}:\n"
        "    with contextlib.suppress(SystemExit): main([command, '--help'])\n"
        "heavy = {'torch', 'PIL', 'matplotlib'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: openmae") == len(commands)


def test_a_shell_completes_commands_flags_and_values(tmp_path: Path, run: Run) -> None:
    """Bash itself, as it calls what completes."""
    script = tmp_path / "completion.bash"
    with script.open("w") as file, contextlib.redirect_stdout(file), pytest.raises(SystemExit):
        main(["--completion=bash"])
    ask = (
        f"source {script}; complete=$(complete -p openmae); function=${{complete##*-F }}; function=${{function%% *}}\n"
        'for line in "openmae finetu" "openmae pretrain --mask-s" "openmae pretrain --mask bl"; do\n'
        "  COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()\n"
        '  "$function"; echo "${COMPREPLY[@]}"; done'
    )
    done = subprocess.run(["bash", "-c", ask], check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["finetune", "--mask-schedule", "block"], done.stderr
    refused(run("--completion=fish"), "bash, zsh, tcsh")


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP than GNU's elsewhere")
@pytest.mark.parametrize(("asked", "spins"), [("", "300"), ("ACTIVE", "30000000000")])
def test_threads_that_wait_look_a_moment_before_they_sleep(asked: str, spins: str) -> None:
    """As OpenMP itself understood it; what the environment says is left."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"OMP_WAIT_POLICY": asked} if asked else {})
    command = [sys.executable, "-m", "openmae", "stats", "no folder"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert "no folder does not exist" in done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_help_has_headings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    said = capsys.readouterr().out
    headings = re.findall(r"^\W*(positional arguments|(?:\w+ )?options)\W*$", said, re.MULTILINE)
    assert headings == [
        "positional arguments",
        "options",
        *(f"{word} options" for word in "model masking view schedule machine output data".split()),
    ]
    at = {word: said.index(f" {word} options") for word in ("model", "masking", "view", "data")}
    assert at["model"] < said.index("--img-size") < at["masking"] < said.index("--mask-ratio") < at["view"]
    assert at["data"] < said.index("--include")


def test_commands_begin_without_any_extra_and_help_needs_nothing_of_posix() -> None:
    """Optional packages are imported where they are used: a missing one stops nothing else. So are those that take
    a second or more and that few need. All in one process, since torch takes seconds."""
    requirements = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    optional = {
        re.split(r"[<>=\[;]", one)[0].replace("-", "_")
        for extra in requirements["optional-dependencies"].values()
        for one in extra
        if not one.startswith("openmae")
    } | {"cv2", "imagecorruptions", "faiss"}
    check = (
        f"import builtins, importlib, runpy, sys; sys.modules.update(dict.fromkeys({sorted(optional)}))\n"
        "whole = builtins.__import__; runpy.run_module('tests.elsewhere', run_name='__main__')\n"
        "builtins.__import__ = whole\n"
        "from openmae.cli import COMMANDS, module_of\n"
        "outlines = {'segment', 'detect'}\n"  # which are torchvision's to a large part
        "for command in {*COMMANDS} - outlines: importlib.import_module(module_of(command))\n"
        "slow = {'sklearn', 'torch._dynamo', 'torch.distributed.tensor', 'torchvision'} & set(sys.modules)\n"
        "for command in {*COMMANDS} & outlines: importlib.import_module(module_of(command))\n"
        "sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: openmae") == len(COMMANDS) + 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_setting_whole(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words run on where a line of the source ends, and what is left open has no 'None' to give."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "DATA", "--help"])
    said = capsys.readouterr().out
    shown = "".join(said.replace("│", " ").split())  # lines are broken at some commas too
    settings = getattr(importlib.import_module(module_of(command)), COMMANDS[command][1])
    for field, text in field_texts(settings).items():
        assert "".join(text.split()) in shown, field
    assert not re.search(r"\{None|default:(None|\))", shown)
    assert [line for line in said.splitlines() if line.startswith("│") and len(line) > 100] == []


def test_config_file_gives_settings_and_the_command_line_wins(data: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        f'data = "{data}"\nmask-ratio = 0.5\nimg_size = [16, 24]\npatch-size = 8\nhflip = false\nseed = 3\n'
    )
    out = tmp_path / "run"
    tiny = TINY[TINY.index("--embed-dim") :]  # without img_size and patch_size, which the file gives
    code, _, errors = run(
        "pretrain", "--config", file, "--out", out, *tiny, *words("--seed 4 --epochs 0.5 --workers 0")
    )
    assert code == 0, errors
    config = tomllib.loads((out / "config.toml").read_text())
    expected = {"mask_ratio": 0.5, "img_size": [16, 24], "patch_size": 8, "hflip": False, "seed": 4}
    assert {key: config[key] for key in expected} == expected


def test_unknown_words_get_a_suggestion(data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("pretrian", data), "did you mean pretrain?")
    refused(
        run("pretrain", data, "--out", tmp_path / "r", "--mask-ratoi", "0.5"),
        "--mask-ratoi",
        "did you mean --mask-ratio?",
    )
    file = tmp_path / "c.toml"
    file.write_text("mask_ratoi = 0.5\n")
    refused(
        run("pretrain", data, "--out", tmp_path / "r", "--config", file), "'mask_ratoi'", "did you mean mask_ratio?"
    )
    file.write_text("mask_ratio = \n")
    refused(run("pretrain", data, "--out", tmp_path / "r", "--config", file), "is not TOML")
    refused(run("pretrain", data, "--config", tmp_path / "none.toml"), "cannot be read")
    assert run("pretrain", data, "--out", tmp_path / "r", "--mask-ratio", "many")[0] == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("check", "DATA is missing: openmae check DATA (see"),
        ("knn", "MODEL and DATA are missing: openmae knn MODEL DATA (see"),
        ("finetune a", "DATA and --out are missing: openmae finetune MODEL DATA --out RUN"),
        ("reconstruct m a.png", "--out PNG is missing: openmae reconstruct MODEL IMAGE --out PNG (see"),
        ("pretrain a b --out r", "'b' is one word too many"),
        ("pretrain a --out r -q", "there is no flag -q"),
        ("pretrain a --img-size abc", "--img-size is abc: give a number of pixels, such as 224, or height x width"),
        ("pretrain a --img-size 0", "--img-size is 0: give a number of pixels"),
        ("pretrain a --patch-size 4x4x4", "--patch-size is 4x4x4: give a number of pixels"),
        ("pretrain a --model vit_hugo", "--model is vit_hugo: give one of vit_tiny, vit_small, vit_base"),
        ("pretrain a --epochs", "--epochs is without a value: give a number"),
        ("pretrain a --epochs many", "--epochs is many: give a number"),
        ("pretrain a --crop_scale 1", "--crop-scale is 1: give 2 numbers"),
        ("bench --precision fp16", "--precision is fp16: give one of bf16, fp32, several with spaces between them"),
        ("pretrain --bands 1 2 a", "--bands is 1 2 a: give numbers with spaces between them, and DATA before the flag"),
        ("stats a --workers=1.5", "--workers is 1.5: give a whole number"),
    ],
)
def test_words_that_make_no_settings(run: Run, command: str, sentence: str) -> None:
    refused(run(*command.split()), sentence)


def test_flags_may_come_before_the_images(data: Path, tmp_path: Path, run: Run) -> None:
    _, first, *rest = pretrain(data, tmp_path / "r", "--epochs 0.3 --img-size 16x24")
    code, _, errors = run("pretrain", *rest, first)
    assert code == 0, errors
    assert tomllib.loads((tmp_path / "r/config.toml").read_text())["img_size"] == [16, 24]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["pretrain", "", "--out", "r"], "empty word:"),
        (["pretrain", "data", "--out", ""], "after --out:"),
        (["pretrain", "data", "--out="], "in --out=:"),
        (["plan", ""], "empty word:"),
        (["plan", "--images", "5", "--measured", ""], "after --measured:"),
        (["knn", "", "data"], "empty word:"),
        (["doctor", "--data", ""], "after --data:"),
    ],
)
def test_a_variable_that_is_not_set_is_not_this_folder(run: Run, words: list[str], where: str) -> None:
    refused(run(*words), where)
