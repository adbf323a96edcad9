"""Muon beside torch's own; what it makes orthogonal; steps that are not taken; a run that is gone on with."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from openmae.model import MaskedAutoencoder, create_model
from openmae.train.checkpoint import newest_checkpoint, restore, snapshot, write_checkpoint
from openmae.train.learner import Learner
from openmae.train.muon import Muon, moves, orthogonal
from openmae.train.optimizers import adamw, layer_scale
from tests.train.tasks import no_loss

BETAS = (0.9, 0.95)


def small() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return create_model(
        "vit_tiny", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, decoder_embed_dim=16,
        decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip


def backward(model: nn.Module, step: int) -> None:
    model.zero_grad()
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    model(images, torch.tensor([[1, 2]] * 6), torch.tensor([[0, 3]] * 6)).loss.backward()


def take(*optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * group.get("lr_scale", 1.0)
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module, **near: float) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **near, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has none to compare with")
def test_it_is_torchs_for_matrices_of_blocks_and_adamw_for_the_rest() -> None:
    model = small()
    twin = copy.deepcopy(model)
    ours = Muon(model, BETAS, 0.05, layer_scale(0.5, 2))
    plain = adamw(twin, BETAS, 0.05, layer_scale(0.5, 2))
    names = {parameter: name for name, parameter in twin.named_parameters()}
    matrices, rest = [], []
    for group in plain.param_groups:
        for one in group["params"]:
            (matrices if moves(names[one], one) else rest).append({**group, "params": [one]})
    theirs = [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.0, betas=BETAS, fused=True),
    ]
    assert {names[group["params"][0]].split(".")[-2] for group in matrices} == {"qkv", "proj", "0", "2"}
    assert len(matrices) == 4 * 3
    for step in range(4):
        backward(model, step)
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            other.grad = None if mine.grad is None else mine.grad.clone()
        take(ours, *theirs)
    assert_same(model, twin, rtol=1e-5, atol=1e-7)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_all_directions_of_a_step_are_alike(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.mT @ orthogonal(matrix, torch.float32) @ right.mT
    known = values > 0.01 * values[0]  # smaller ones five rounds may leave small
    assert (found.diagonal()[known] > 0.6).all()
    assert (found.diagonal() < 1.25).all()
    torch.testing.assert_close(found, found.diagonal().diag(), atol=1e-3, rtol=0)


def test_a_step_that_is_not_finite_moves_nothing() -> None:
    model = small()
    optimizer = Muon(model, BETAS, 0.05)
    backward(model, 0)
    take(optimizer)
    weights = copy.deepcopy(model)
    kept = {one: {name: value.clone() for name, value in state.items()} for one, state in optimizer.state.items()}
    backward(model, 1)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad[:] = float("nan")
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert_same(model, weights, rtol=0, atol=0)
    for parameter, state in optimizer.state.items():
        for name in ("momentum", "exp_avg", "exp_avg_sq"):
            assert (name in state) is (name in kept[parameter])
            assert torch.equal(state.get(name, Tensor()), kept[parameter].get(name, Tensor()))


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    model = small()
    optimizer = Muon(model, BETAS, 0.05)
    for step in range(4):
        backward(model, step)
        take(optimizer)
        if step == 1:
            taken = snapshot(Learner(model, no_loss), optimizer, step, {}, {})
            assert taken is not None
            write_checkpoint(tmp_path, taken)
    again = small()
    other = Muon(again, BETAS, 0.05)
    restore(newest_checkpoint(tmp_path)[0], Learner(again, no_loss), other)
    for step in (2, 3):
        backward(again, step)
        take(other)
    assert_same(again, model, rtol=0, atol=0)
