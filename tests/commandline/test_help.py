"""What --help says of settings that several commands have: the same where the same is done."""

import importlib
import re

import pytest

from openmae.cli import COMMANDS, module_of
from openmae.commandline.help import field_texts
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.settings import Pretrain

DIFFERENT = {  # between pretrain and finetune, and why
    "model": "a size, or a model",
    "data": "labels are needed, and without splits a part is held out",
    "out": "what lies in the run differs",
    "resume": "MODEL comes from the run too",
    "recipe": "other tables of the paper",
    "img_size": "positions are interpolated",
    "patch_size": "it is the model's",
    "micro_batch": "--batch-norm makes it a part of the result",
    "num_heads": "it is for weights that do not say it",
    "optimizer": "LARS is for the paper's probe, Muon for pre-training",
    "epochs": "without any, a classifier is its linear probe",
    "seed": "other things are drawn",
    "evaluations": "other things are measured",
}
ALIKE = {  # in all commands but these
    "device": {"plan"},  # measures on it
    "precision": {"bench", "predict"},  # takes both; gives evaluate's figures by default
    "workers": {"stats", "check", "pack"},  # train nothing beside them
    "task": set(),
    "hflip": set(),
    "part": {"ablate", "compare"},  # share trainings, not images
}


def texts(command: str) -> dict[str, str]:
    return field_texts(getattr(importlib.import_module(module_of(command)), COMMANDS[command][1]))


def test_pretrain_and_finetune_say_the_same_of_the_same() -> None:
    """But for what the paper or this machine's kind makes the default."""
    said = [
        {name: re.split(r"(?:Default|Paper): ", text)[0].strip() for name, text in field_texts(settings).items()}
        for settings in (Pretrain, Finetune)
    ]
    both = said[0].keys() & said[1].keys()
    assert {name for name in both if said[0][name] != said[1][name]} == DIFFERENT.keys()


@pytest.mark.parametrize("name", ALIKE)
def test_what_all_commands_ask_alike_has_one_wording(name: str) -> None:
    said = {command: texts(command).get(name) for command in COMMANDS if command not in ALIKE[name]}
    assert len(set(said.values()) - {None}) == 1, said
