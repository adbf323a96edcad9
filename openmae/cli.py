"""The table of commands. `openmae --help` imports nothing heavy."""

import contextlib
import dataclasses
import difflib
import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any, get_type_hints

from openmae import __version__
from openmae.data.address import hide
from openmae.data.parsing import read_toml
from openmae.errors import INTERRUPTED, NOT_WRITTEN, RUN_AGAIN, Interrupted, NotWritten, RankLost, UserError, said_once
from openmae.printable import printable

COMMANDS: dict[str, tuple[str, str, str]] = {  # name: (recipe module, dataclass, what it does)
    "quickstart": ("quickstart", "Quickstart", "pre-train on real images that come along, and show that it worked"),
    "pretrain": ("pretrain", "Pretrain", "pre-train on your images: openmae pretrain DATA --out RUN"),
    "finetune": (
        "finetune",
        "Finetune",
        "train an encoder on labels, all of it or its last blocks: MODEL DATA --out RUN",
    ),
    "reconstruct": ("reconstruct", "Reconstruct", "masked | reconstruction | original: MODEL IMAGE... --out PNG"),
    "knn": ("knn", "Knn", "what the features know, by nearest neighbours: MODEL DATA"),
    "probe": ("probe", "Probe", "what the features know, by a linear classifier: MODEL DATA"),
    "embed": ("embed", "Embed", "a vector for each image, and what is near what: MODEL DATA --out FILE.parquet"),
    "evaluate": (
        "evaluate",
        "Evaluate",
        "how good a fine-tuned model is, class by class, and where it errs: MODEL DATA",
    ),
    "export": ("export", "Export", "for timm, transformers, ONNX, ..., checked: MODEL --to FORMAT --out PATH"),
    "push": ("push", "Push", "onto the Hugging Face Hub, with a model card: RUN USER/NAME"),
    "stats": ("stats", "Stats", "mean, deviation and percentiles of your images: DATA"),
    "check": ("check", "Check", "broken files, odd sizes, duplicates, suspicious labels: DATA"),
    "pack": ("pack", "Pack", "write tar shards of smaller images, which load faster: DATA SHARDS"),
    "doctor": ("doctor", "Doctor", "whether this machine can train, and what to mend"),
    "launch": ("launch", "Launch", "hand a training to a cluster's scheduler: slurm -- COMMAND ..."),
    "plan": ("plan", "Plan", "steps, hours, memory and cost of a pre-training before it starts: [DATA]"),
    "bench": ("bench", "Bench", "how fast a training step is here, beside other implementations"),
    "report": ("report", "Report", "write RUN/report.html anew: RUN"),
}

TOGETHER = ("pretrain", "finetune", "knn", "probe", "doctor")
"""Those that several processes do as one."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command, and returns its exit code; one of several ranks leaves with it at once."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was started with that closed, and the next file would be taken for it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    code = _main(argv)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # All is written by now, and threads of torch's may abort a process while Python takes itself apart.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _main(argv: list[str] | None) -> int:
    """Runs a command; returns 0 (`check`: how severe its findings are), 2 for bad input, 130 after Ctrl-C, 75 where the
    same command should be run again, 74 where the end of a run could not be written."""
    argv = [hide(word) for word in (sys.argv[1:] if argv is None else argv)]  # addresses, from here on
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may be no text that they can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"openmae {__version__}")
        return 0
    try:
        return _run(argv[0], argv[1:])
    except UserError as error:
        _complain(argv[0], str(error))
        return 2
    except Interrupted as stopped:
        _complain(argv[0], str(stopped))
        return stopped.code
    except NotWritten as error:
        _complain(argv[0], str(error))
        return NOT_WRITTEN
    except RankLost as lost:
        _complain(argv[0], str(lost))
        return RUN_AGAIN
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:  # the system's refusal, wherever it came; a bug would not carry a file's name
        if error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            _complain(argv[0], f"its output cannot be written ({error.strerror}): mend that and run it again")
            return 2
        if error.errno is None or error.filename is None:
            raise
        _complain(argv[0], f"{error.filename}: {error.strerror}: mend that and run it again")
        return 2
    except KeyboardInterrupt:
        print(f"openmae {argv[0]}: stopped.", file=sys.stderr)
        return INTERRUPTED


def _complain(command: str, sentence: str) -> None:
    """On standard error; nothing where another process says it."""
    if sentence:
        sentence = printable(sentence.replace("\n", " "))  # what a library says may be of several lines
        end = "" if sentence.endswith(("?", ".")) else "."
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"openmae {printable(command)}: {sentence}{end}", file=sys.stderr, flush=True)


def _run(command: str, argv: list[str]) -> int:
    # Idle torch threads sleep instead of spinning, which would take the cores from the loader's processes:
    # 15% more images/s on 2 cores. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors on large pages: a step of ViT-B on 2 cores spends 0.1 s instead of 0.5 in the kernel (docs/log.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # What torch.compile makes outlives the machine's next start, which the default, a folder in /tmp, does not.
    from openmae.data.cache import cache_folder

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    if os.environ.get("WORLD_SIZE", "1") != "1" and command in COMMANDS and command not in TOGETHER:
        from openmae.ranks import refuse_ranks

        refuse_ranks("this")
    if command == "launch":
        return _launch(argv)
    with said_once():
        recipe, settings = _read(command, argv)
    return recipe.run(settings) or 0  # most return nothing


def _launch(argv: list[str]) -> int:
    """Runs `launch`: its own words, --, and those of the command that it launches."""
    at = argv.index("--") if "--" in argv else len(argv)
    if at == len(argv) and not {"-h", "--help"} & set(argv):
        raise UserError("the command to launch comes after --: openmae launch slurm -- pretrain DATA --out RUN")
    recipe, settings = _read("launch", argv[:at])
    return recipe.run(settings, argv[at + 1 :], lambda words: _read(words[0], words[1:])[1]) or 0


def _read(command: str, argv: list[str]) -> tuple[Any, Any]:
    """(the command's recipe, the settings that these words make). Raises UserError, SystemExit after --help."""
    if command not in COMMANDS:
        raise UserError(f"there is no command '{command}'{_suggestion(command, list(COMMANDS))}: see openmae --help")
    module_name, class_name, _ = COMMANDS[command]
    recipe = importlib.import_module(f"openmae.recipes.{module_name}")
    settings_type = getattr(recipe, class_name)
    argv = _with_config_file(argv, settings_type, getattr(recipe, "DERIVED", ()))
    _check_empty(argv)
    _check_flags(argv, settings_type)
    return recipe, _parsed(command, argv, settings_type)


def _parsed(command: str, argv: list[str], settings_type: type) -> Any:
    """The settings that these words make. Raises UserError where they make none, SystemExit after --help."""
    import tyro

    from openmae.refusal import why_refused

    prog = f"openmae {command}"
    if not {"-h", "--help"}.isdisjoint(argv):  # of all settings, also where some are given
        from openmae.help_text import help_text

        return tyro.cli(settings_type, args=["--help"], prog=prog, registry=help_text(settings_type))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its message is a box of our types
            return tyro.cli(settings_type, args=argv, prog=prog)
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise UserError(why_refused(command, argv, settings_type)) from None


def _with_config_file(argv: list[str], settings_type: type, derived: tuple[str, ...]) -> list[str]:
    """Puts the settings of `--config FILE` before the command line's own flags, which therefore win.

    derived: keys that are not settings but stand in the config.toml of a run, so that this can be given too.
    """
    for at, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            values = [word.split("=", 1)[1]] if "=" in word else argv[at + 1 : at + 2]
            if not values:
                raise UserError("--config needs a file: --config settings.toml")
            given = argv[:at] + argv[at + (1 if "=" in word else 2) :]
            first_flag = next((i for i, w in enumerate(given) if w.startswith("--")), len(given))
            words = _config_words(Path(values[0]), settings_type, derived, with_places=first_flag == 0)
            return given[:first_flag] + words + given[first_flag:]
    return argv


def _config_words(file: Path, settings_type: type, derived: tuple[str, ...], with_places: bool) -> list[str]:
    from openmae.refusal import has_place

    try:
        values = read_toml(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): give a TOML file") from error
    except ValueError as error:
        raise UserError(f"{file} is not TOML ({error}): mend that line") from error
    known = [field.name for field in dataclasses.fields(settings_type)]
    hints = get_type_hints(settings_type, include_extras=True)
    words: list[str] = []
    placed: dict[str, str] = {}  # MODEL and DATA; those on the command line take their place
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in derived:
            continue
        if name not in known:
            raise UserError(f"{file} has an unknown key '{key}'{_suggestion(name, known)}")
        if isinstance(value, dict):
            raise UserError(f"{file} has a table '{key}': give settings without tables")
        if any(isinstance(one, str) and one.startswith("-") for one in (value if isinstance(value, list) else [value])):
            raise UserError(f"{file} has '{key}' as {value!r}, which would be read as a flag: give another value")
        given = _flag_words(name.replace("_", "-"), value)
        if has_place(hints[name]):
            placed[name] = hide(str(value))
        else:
            words += given
    return [*(placed[name] for name in known if name in placed), *words] if with_places else words


def _flag_words(flag: str, value: Any) -> list[str]:
    if isinstance(value, int) and value.bit_length() > 1000:
        value = float("inf")  # which is refused; Python declines to write so many digits
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list) and flag in ("img-size", "patch-size"):
        return [f"--{flag}", "x".join(map(str, value))]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]


def _check_empty(argv: list[str]) -> None:
    """A variable of the shell's that is not set; as a folder it would be the present one."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            where = f" after {before}" * before.startswith("--") if not word else f" in {word}"
            raise UserError(f"there is an empty word{where}: give a value; a variable may not be set")


def _check_flags(argv: list[str], settings_type: type) -> None:
    """One sentence with a suggestion for a flag that does not exist."""
    known = {"help", "config"}
    for field in dataclasses.fields(settings_type):
        flag = field.name.replace("_", "-")
        known |= {flag, f"no-{flag}"} if field.type in (bool, "bool") else {flag}
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name = word[2:].split("=", 1)[0].replace("_", "-")
            if name not in known and not name.startswith("tyro-"):
                raise UserError(f"there is no flag --{name}{_suggestion(name, sorted(known), prefix='--')}: see --help")


def _suggestion(word: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, (_, _, what) in COMMANDS.items())
    return (
        "openmae: pre-train Vision Transformers on your own unlabelled images by masked autoencoding\n\n"
        f"usage: openmae COMMAND ...        (openmae COMMAND --help lists its settings)\n\n{rows}\n\n"
        "Settings may come from --config FILE.toml; the command line wins. openmae --version prints the version."
    )


if __name__ == "__main__":
    sys.exit(main())
