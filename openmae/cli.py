"""The table of commands. `openmae --help` imports nothing heavy, `openmae COMMAND --help` no job."""

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmae.commandline.flags import with_flags
from openmae.commandline.interrupts import GOES_ON, RESUMABLE, Interrupts
from openmae.commandline.words import refuse_empty_words, refuse_unknown_flags, repeated, suggestion, with_config_file
from openmae.console.words import printable
from openmae.distributed.share import SHARED
from openmae.errors import INTERRUPTED, NOT_WRITTEN, RUN_AGAIN, Interrupted, NotWritten, RankLost, UserError, said_once
from openmae.files.address import hide
from openmae.version import __version__

COMMANDS: dict[str, tuple[str, str, str]] = {  # name: (module, dataclass, what it does)
    "quickstart": ("quickstart", "Quickstart", "pre-train on real images that come along, and show that it worked"),
    "pretrain": ("pretrain.job", "Pretrain", "pre-train on your images: openmae pretrain DATA --out RUN"),
    "finetune": (
        "finetune.job",
        "Finetune",
        "train an encoder on labels, all of it or its last blocks: MODEL DATA --out RUN",
    ),
    "segment": ("segment.job", "Segment", "learn a class for every pixel: MODEL DATA --out RUN"),
    "detect": ("detect.job", "Detect", "learn where objects are, boxes and outlines: MODEL DATA --out RUN"),
    "adapt": (
        "studies.adapt.job",
        "Adapt",
        "is going on from released weights worth it? MODEL DATA --out STUDY",
    ),
    "compare": (
        "studies.compare.job",
        "Compare",
        "which way to pre-train is best here? mae, simclr, dino, ...: DATA --out STUDY",
    ),
    "ablate": (
        "studies.ablate.job",
        "Ablate",
        "which setting is best here? a table with error bars: DATA --out STUDY --study NAME",
    ),
    "reconstruct": ("reconstruct", "Reconstruct", "masked | reconstruction | original: MODEL IMAGE... --out PNG"),
    "knn": ("probe.knn", "Knn", "what the features know, by nearest neighbours: MODEL DATA"),
    "probe": ("probe.linear", "Probe", "what the features know, by a linear classifier: MODEL DATA"),
    "embed": ("embed.job", "Embed", "a vector for each image, and what is near what: MODEL DATA --out FILE.parquet"),
    "evaluate": (
        "evaluate.job",
        "Evaluate",
        "how good a fine-tuned model is, class by class, and where it errs: MODEL DATA",
    ),
    "predict": (
        "predict.job",
        "Predict",
        "what a trained model says of new images, in a table, or masks in a folder: RUN IMAGES --out PLACE",
    ),
    "demo": ("demo.job", "Demo", "hide patches of an image and see them filled in, on a page of this machine: RUN"),
    "export": ("export.job", "Export", "for timm, transformers, ONNX, ..., checked: MODEL --to FORMAT --out PATH"),
    "push": ("push", "Push", "onto the Hugging Face Hub, with a model card: RUN USER/NAME"),
    "stats": ("stats", "Stats", "mean, deviation and percentiles of your images: DATA"),
    "check": (
        "check.job",
        "Check",
        "broken files, odd sizes, duplicates, suspicious labels, masks that do not fit: DATA",
    ),
    "pack": ("pack.job", "Pack", "write tar shards of smaller images, which load faster: DATA SHARDS"),
    "doctor": ("doctor.job", "Doctor", "whether this machine can train, and what to mend"),
    "launch": ("launch.job", "Launch", "hand a training to a cluster's scheduler: slurm -- COMMAND ..."),
    "plan": ("plan.job", "Plan", "steps, hours, memory and cost of a pre-training before it starts: [DATA]"),
    "bench": ("bench.job", "Bench", "how fast a training step is here, beside other implementations"),
    "report": ("report", "Report", "write RUN/report.html anew: RUN"),
}

COMPLETION = "--completion"

TOGETHER = ("pretrain", "finetune", "segment", "detect", "knn", "probe", "doctor")
"""Those that several processes do as one."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command, and returns its exit code; one of several ranks leaves with it at once."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was started with that closed, and the next file would be taken for it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    argv = [hide(word) for word in (sys.argv[1:] if argv is None else argv)]  # addresses, from here on
    with Interrupts(printable(argv[0]) if argv else "") as interrupts:
        code = _main(argv)
    if code == INTERRUPTED:
        code = interrupts.code or code
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # All is written by now, and threads of torch's may abort a process while Python takes itself apart.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _main(argv: list[str]) -> int:
    """Runs a command; returns 0 (`check`: how severe its findings are), 2 for bad input, 130 after Ctrl-C, 75 where the
    same command should be run again, 74 where the end of a run could not be written."""
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
        if argv[0].startswith(COMPLETION):
            return _completion(argv[0].partition("=")[2])
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
        _complain(argv[0], f"stopped; {GOES_ON}" if argv[0] in RESUMABLE else "stopped")
        return INTERRUPTED


def _complain(command: str, sentence: str) -> None:
    """On standard error; nothing where another process says it."""
    if sentence:
        sentence = printable(with_flags(sentence).replace("\n", " "))  # what a library says may be of several lines
        end = "" if sentence.endswith(("?", ".")) else "."
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"openmae {printable(command)}: {sentence}{end}", file=sys.stderr, flush=True)


def _run(command: str, argv: list[str]) -> int:
    # Idle torch threads sleep, for spinning would take the cores from the loader's processes and from other trainings;
    # but they look some microseconds first, since to be woken takes longer than the gap between two small operations
    # (docs/log.md; GNU's OpenMP alone has a number for it). Read when torch is first imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "300")
    # Large tensors on large pages: a step of ViT-B on 2 cores spends 0.1 s instead of 0.5 in the kernel (docs/log.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ["MPLBACKEND"] = "agg"  # we show nothing; that of a notebook may not exist here
    if os.environ.get("WORLD_SIZE", "1") != "1" and command in COMMANDS and command not in (*TOGETHER, *SHARED):
        from openmae.distributed.started import refuse_ranks

        refuse_ranks("this")
    if command == "launch":
        return _launch(argv)
    with said_once():
        settings = read_settings(command, argv)
    return _recipe(command).run(settings) or 0  # most return nothing


def _launch(argv: list[str]) -> int:
    """Runs `launch`: its own words, --, and those of the command that it launches."""
    at = argv.index("--") if "--" in argv else len(argv)
    if at == len(argv) and not {"-h", "--help"} & set(argv):
        raise UserError("the command to launch comes after --", "openmae launch slurm -- pretrain DATA --out RUN")
    settings = read_settings("launch", argv[:at])
    return _recipe("launch").run(settings, argv[at + 1 :], lambda words: read_settings(words[0], words[1:])) or 0


def read_settings(command: str, argv: list[str]) -> Any:
    """The settings that these words make for a command. Raises UserError, SystemExit after --help."""
    if command not in COMMANDS:
        raise UserError(f"there is no command '{command}'{suggestion(command, list(COMMANDS))}", "see openmae --help")
    settings_type, derived = _settings_type(command)
    argv = repeated(with_config_file(argv, settings_type, derived), settings_type)
    refuse_empty_words(argv)
    refuse_unknown_flags(argv, settings_type)
    return _parsed(command, argv, settings_type)


def module_of(command: str) -> str:
    """Where its job is: a study's under its own name, all others among the recipes."""
    module = COMMANDS[command][0]
    return f"openmae.{module}" if module.startswith("studies.") else f"openmae.recipes.{module}"


def _settings_type(command: str) -> tuple[type, tuple[str, ...]]:
    """What a command is asked, and entries of its files that are no settings; without its job."""
    asked = importlib.import_module(module_of(command).replace(".job", ".settings"))
    return getattr(asked, COMMANDS[command][1]), getattr(asked, "DERIVED", ())


def _recipe(command: str) -> Any:
    from openmae.files.foreign_caches import place_foreign_caches

    place_foreign_caches()
    return importlib.import_module(module_of(command))


def _parsed(command: str, argv: list[str], settings_type: type) -> Any:
    """The settings that these words make. Raises UserError where they make none, SystemExit after --help."""
    import tyro

    from openmae.commandline.refusal import why_refused

    prog = f"openmae {command}"
    if not {"-h", "--help"}.isdisjoint(argv):  # of all settings, also where some are given
        from openmae.commandline.help import help_text

        return tyro.cli(settings_type, args=["--help"], prog=prog, registry=help_text(settings_type))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its message is a box of our types
            return tyro.cli(settings_type, args=argv, prog=prog)
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise why_refused(command, argv, settings_type) from None


def _docs() -> Path:
    """Beside the package in a clone, within it where it was installed."""
    package = Path(__file__).parent
    return next(place / "docs" for place in (package, package.parent) if (place / "docs").exists())


def _completion(shell: str) -> int:
    """Prints the script by which a shell completes the command line. Raises UserError, SystemExit when it is done."""
    import tyro

    shells = ("bash", "zsh", "tcsh")
    if shell not in shells:
        raise UserError(f"there is no completion for '{shell}'", f"give one of {', '.join(shells)}")
    commands: dict[str, Callable[..., Any]] = {name: _settings_type(name)[0] for name in COMMANDS}
    return tyro.extras.subcommand_cli_from_dict(commands, prog="openmae", args=["--tyro-print-completion", shell])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, (_, _, what) in COMMANDS.items())
    return (
        "openmae: pre-train Vision Transformers on your own unlabelled images by masked autoencoding\n\n"
        f"usage: openmae COMMAND ...        (openmae COMMAND --help lists its settings)\n\n{rows}\n\n"
        "Settings may come from --config FILE.toml; the command line wins. openmae --version prints the version;\n"
        f"openmae {COMPLETION}=bash (or zsh, tcsh) what lets a shell complete commands, flags and values.\n"
        f"The docs/ that these texts name are in {_docs()}."
    )


if __name__ == "__main__":
    sys.exit(main())
