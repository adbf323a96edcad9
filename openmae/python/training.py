"""openmae.pretrain and openmae.finetune."""

from __future__ import annotations  # help() shows Data, not what it stands for

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.console.notebook import is_notebook
from openmae.console.terminal import make_console
from openmae.errors import Interrupted, UserError
from openmae.machine.heap import give_back_freed_memory
from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import AnyModel, Data, Mask, Target, at_home, data_of, own
from openmae.python.run import Run, finished
from openmae.recipes.finetune import job as finetuning
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain import job as pretraining
from openmae.recipes.pretrain.settings import Pretrain


@taking(Pretrain)
def pretrain(data: Data = None, *, mask: Mask = "random", target: Target = "pixel", **settings: Any) -> Run:
    """Pre-trains a Vision Transformer on unlabelled images by masked autoencoding, and gives the run.

    The same call again goes on where the run was, after a crash, an interrupt or a restarted kernel; where it is
    complete, nothing is trained. Interrupted in a notebook or at a prompt, it saves and gives the run as it is; in a
    script it raises openmae.Interrupted once that is saved. Raises openmae.UserError for what is wrong with the
    settings or the images.

    data, mask, target: may be one's own (docs/python.md); then they have to be given again where the run is to go on,
    which it does exactly where they are functions of what they are given alone.
    """
    given = {"data": data_of(data), "mask": own(mask), "target": own(target)}
    asked = settings_of("pretrain", Pretrain, {**given, **settings, **at_home(given, settings)})
    finished(settings.get("from_"))
    return _trained(asked.out, lambda console: pretraining.pretrain(asked, console))


@taking(Finetune)
def finetune(model: AnyModel | None = None, data: Data = None, **settings: Any) -> Run:
    """Trains an encoder on labels, and gives the run, whose `results` are the figures on val.

    model: a Run, its path, or whatever else openmae.load takes. It goes on, is interrupted and raises as
    openmae.pretrain does.
    """
    given = {"model": finished(model), "data": data_of(data)}
    asked = settings_of("finetune", Finetune, {**given, **settings, **at_home(given, settings)})
    if "," in asked.blocks:
        raise UserError(f"blocks is {asked.blocks!r}", "give one, and call this once for each")
    return _trained(asked.out, lambda console: finetuning.finetune(asked, console))


def _trained(out: Path | None, train: Callable[[Console], object]) -> Run:
    """The run in `out`, after it was trained as far as it was let."""
    if out is None:
        raise UserError("out is missing", "say where the run goes, such as out='runs/first'")
    with as_far_as_let(lambda: True):
        train(make_console())
    return Run(out)


@contextmanager
def as_far_as_let(is_begun: Callable[[], bool]) -> Iterator[None]:
    """Around what trains. Interrupted in a notebook or at a prompt, where there is something to give by then, it ends
    quietly. Raises Interrupted elsewhere."""
    try:
        yield
    except Interrupted as stopped:
        if not is_interactive() or not is_begun():
            raise
        print(f"{with_keywords(str(stopped))}.")
    finally:
        give_back_freed_memory()  # what a training keeps for its next step


def is_interactive() -> bool:
    """Whether somebody sits before it: a notebook, or a prompt of Python's or IPython's."""
    return hasattr(sys, "ps1") or is_notebook()
