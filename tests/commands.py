"""Commands as a user types them: what the tests of several commands share."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs a command in this process -> exit code, output, errors: the fixture `run`."""

TINY = (  # a model that trains in milliseconds a step
    "--img-size 16 --patch-size 4 --embed-dim 24 --depth 1 --num-heads 2 --decoder-embed-dim 16 --decoder-depth 1 "
    "--decoder-num-heads 2 --batch-size 8 --micro-batch 5 --precision fp32 --device cpu"
).split()
QUICK = "--epochs 2 --batch-size 8 --micro-batch 8 --precision fp32 --device cpu".split()


def in_one_process(run: Run, command: str) -> Run:
    """`run` that gives this command `--workers 0` where a test says nothing else: forking the tests' own process takes
    longer than to decode what they have."""

    def call(*words: object) -> tuple[int, str, str]:
        is_open = words[0] == command and "--workers" not in words
        return run(*words, *(("--workers", 0) if is_open else ()))

    return call


def pretrain(data: object, out: object, *more: object) -> list[str]:
    """The words of a tiny pre-training, by default of one epoch in one process, with one picture and one look at the
    features, which take longer than its steps.

    more: flags as they are typed (`"--epochs 2 --mask-ratio 0.5"`), the last of two alike wins; a Path is one word.
    """
    quick = "--epochs 1 --pictures 1 --evaluations 1 --workers 0"
    return ["pretrain", str(data), "--out", str(out), *TINY, *words(quick, *more)]


def finetune(model: object, data: object, out: object, *more: object) -> list[str]:
    """The words of a fine-tuning of two epochs in one process, judged once; `more` as in `pretrain`."""
    quick = "--evaluations 1 --workers 0"
    return ["finetune", str(model), str(data), "--out", str(out), *QUICK, *words(quick, *more)]


def segment(model: object, data: object, out: object, *more: object) -> list[str]:
    """The words of a short training in one process; `more` as in `pretrain`."""
    quick = "--epochs 2 --batch-size 4 --evaluations 1 --precision fp32 --device cpu --workers 0"
    return ["segment", str(model), str(data), "--out", str(out), *words(quick, *more)]


def detect(model: object, data: object, out: object, *more: object) -> list[str]:
    """The words of a short training of boxes and outlines; `more` as in `words`."""
    quick = "--epochs 2 --batch-size 4 --evaluations 1 --precision fp32 --device cpu --workers 0 --channels 8"
    return ["detect", str(model), str(data), "--out", str(out), *words(quick, "--img-size 32", *more)]


def words(*typed: object) -> list[str]:
    """A string is as many words as a shell would make of it without quotes, anything else one."""
    return [word for each in typed for word in (each.split() if isinstance(each, str) else [str(each)])]


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2 and one sentence on standard error that has these words in it, and no traceback."""
    code, _, errors = result
    assert code == 2, errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert "Traceback" not in errors
    assert errors.endswith(".\n")
    assert not errors.endswith(("?.\n", "..\n"))
    for word in words:
        assert word in errors
