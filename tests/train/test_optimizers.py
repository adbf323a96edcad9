"""Groups, rates and steps beside timm's and torch's own."""

import copy
from collections.abc import Callable
from contextlib import suppress

import pytest
import timm
import torch
from timm.optim import Lars, param_groups_layer_decay
from torch import nn
from torch.optim.swa_utils import AveragedModel

from openmae.heads import Classifier, learn_last_blocks
from openmae.model import create_model
from openmae.train.optimizers import WarmupCosine, WarmupLinear, adamw, averaged, keep_average, lars, layer_scale

DEPTH = 6


def classifier(pool: str = "mean", learned: bool = False) -> Classifier:
    encoder = create_model("vit_tiny", img_size=16, patch_size=8, embed_dim=24, depth=DEPTH, num_heads=2).encoder
    return Classifier(encoder.with_learned_positions() if learned else encoder, 5, pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer_decay", [0.65, 0.75, 1.0])
@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("learned", [False, True])
def test_rates_and_decays_are_timms(layer_decay: float, pool: str, learned: bool) -> None:
    model = classifier(pool, learned)
    twin = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=DEPTH, num_heads=2, num_classes=5,
        global_pool="avg" if pool == "mean" else "token",
    )  # fmt: skip
    names = {parameter: name for name, parameter in twin.named_parameters()}
    theirs = {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(
            twin, weight_decay=0.05, layer_decay=layer_decay, no_weight_decay_list=["pos_embed", "cls_token"]
        )
        for parameter in group["params"]
    }
    optimizer = adamw(model, (0.9, 0.999), 0.05, layer_scale(layer_decay, DEPTH))
    ours = {
        parameter: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    compared = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter not in ours
            continue
        twins = name.removeprefix("encoder.").replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2")
        twins = twins.replace("patch_embed.", "patch_embed.proj.").replace("class_token", "cls_token")
        twins = twins.replace("positions", "pos_embed")
        if name.startswith("norm."):
            twins = f"fc_{name}"
        scale, decay = theirs[twins]
        if name.startswith("encoder.norm."):  # timm counts it with the last block, the released code with the head
            scale /= layer_decay
        assert ours[parameter] == pytest.approx((scale, decay)), name
        compared += 1
    assert compared == len(ours) == len(list(twin.parameters())) - (not learned)


def test_the_rates_of_the_formula() -> None:
    scale = layer_scale(0.5, 2)
    assert scale("encoder.patch_embed.weight") == scale("encoder.class_token") == 0.5**3
    assert scale("encoder.blocks.0.attn.qkv.weight") == 0.5**2
    assert scale("encoder.blocks.1.norm1.bias") == 0.5
    assert scale("head.weight") == scale("norm.weight") == scale("encoder.norm.weight") == 1


def test_lars_is_timms() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    twin = copy.deepcopy(ours)
    nn.init.zeros_(ours[1].weight)  # no weights to measure the step by
    nn.init.zeros_(twin[1].weight)
    optimizer_of_ours = lars(ours)
    matrices, vectors = [p for p in twin.parameters() if p.ndim > 1], [p for p in twin.parameters() if p.ndim == 1]
    theirs = [
        Lars(matrices, lr=0.3, momentum=0.9, trust_coeff=0.001, eps=0.0, always_adapt=True),
        torch.optim.SGD(vectors, lr=0.3, momentum=0.9),
    ]
    for group in optimizer_of_ours.param_groups:
        group["lr"] = 0.3
    for step in range(5):
        images = torch.randn(7, 6, generator=torch.Generator().manual_seed(step))
        for model in (ours, twin):
            model.zero_grad()
            model(images).square().sum().backward()
        for optimizer in (optimizer_of_ours, *theirs):
            optimizer.step()
    for mine, other in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_average_is_torchs() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    keep_average(optimizer, 0.9)

    def ema(average: torch.Tensor, new: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        decay = min(0.9, (1 + count.item() + 1) / (10 + count.item() + 1))
        return decay * average + (1 - decay) * new

    theirs = AveragedModel(model, avg_fn=ema)  # type: ignore[arg-type]
    for step in range(30):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()
        theirs.update_parameters(model)
    last = [parameter.detach().clone() for parameter in model.parameters()]
    with averaged(optimizer):
        for mine, other in zip(model.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(mine, other)
            assert not any(torch.equal(mine, before) for before in last)
    for mine, before in zip(model.parameters(), last, strict=True):
        assert torch.equal(mine, before)


@pytest.mark.parametrize("make", [lars, lambda model: adamw(model, (0.9, 0.95), 0.05)])
def test_a_step_with_found_inf_is_as_if_it_had_not_been(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    models = []
    for bad in (None, 3, 0):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make(model)
        keep_average(optimizer, 0.9)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        taken = 0
        for step in range(6 + (bad is not None)):
            optimizer.zero_grad()
            is_bad = step == bad
            inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(taken))
            model(inputs * torch.inf if is_bad else inputs).square().sum().backward()
            optimizer.found_inf = torch.tensor(float(is_bad))  # type: ignore[attr-defined]
            optimizer.step()
            taken += not is_bad
        models.append((model, optimizer))
    clean, optimizer = models[0]
    with averaged(optimizer):
        average = [parameter.detach().clone() for parameter in clean.parameters()]
    for model, optimizer in models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), clean.parameters(), strict=True))
        with averaged(optimizer):
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), average, strict=True))


def test_the_weights_come_back_after_an_error() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    keep_average(optimizer, 0.9)
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    before = model.weight.detach().clone()
    within = []
    with suppress(KeyError), averaged(optimizer):
        within.append(model.weight.detach().clone())
        raise KeyError
    assert not torch.equal(within[0], before)
    assert torch.equal(model.weight, before)


def test_what_is_frozen_is_in_no_group() -> None:
    model = classifier()
    learn_last_blocks(model, 0.5)
    held = [parameter for group in adamw(model, (0.9, 0.999), 0.05).param_groups for parameter in group["params"]]
    assert len(held) == len([p for p in model.parameters() if p.requires_grad]) == 2 + 2 + 2 + 4


def test_only_matrices_decay() -> None:
    model = create_model("vit_tiny", img_size=16, patch_size=4, depth=2, decoder="cross", decoder_layers=2)
    groups = adamw(model, (0.9, 0.95), 0.05).param_groups
    decayed, free = sorted(groups, key=lambda group: group["weight_decay"], reverse=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_decayed = {names[p] for p in decayed["params"]}
    in_free = {names[p] for p in free["params"]}
    assert in_decayed | in_free == set(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in in_decayed)
    assert {"encoder.class_token", "decoder.mask_token", "decoder.mix", "encoder.norm.weight"} <= in_free
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_tokens_decay_where_asked() -> None:
    """As timm's rule for the released pre-training: everything but vectors and biases, where tokens are (1, 1, D)."""
    for decoder, free in (("self", {"encoder.norm.weight"}), ("cross", {"decoder.mix", "encoder.norm.weight"})):
        model = create_model("vit_tiny", img_size=16, patch_size=4, depth=2, decoder=decoder, decoder_layers=1)  # type: ignore[arg-type]
        groups = adamw(model, (0.9, 0.95), 0.05, decay_tokens=True).param_groups
        names = {parameter: name for name, parameter in model.named_parameters()}
        decayed = {names[p] for group in groups for p in group["params"] if group["weight_decay"] == 0.05}
        assert {"encoder.class_token", "decoder.mask_token", "encoder.blocks.0.mlp.0.weight"} <= decayed
        assert not decayed & free
        assert all(name.endswith(("weight", "token")) for name in decayed)


def test_the_last_rate_is_torchs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.01)
    for step in range(50):
        assert WarmupCosine(57, 7, 0.3, 0.01)(step + 7) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert WarmupCosine(57, 7, 0.3, 0.01)(3) == pytest.approx(0.3 * 3 / 7)  # the warm-up begins at 0
    assert WarmupCosine(57, 7, 0.3, 0.5)(40) == 0.3  # and no end lies above the beginning


def test_schedule_is_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = get_cosine_schedule_with_warmup(optimizer, 7, 50)
    for step in range(50):
        assert WarmupCosine(50, 7, 0.3)(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_the_straight_line_is_torchs_polynomial_of_power_1() -> None:
    """Times a linear warm-up, as mmcv's `poly` policy has it: the line begins at the first step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=1.0)
    for step in range(50):
        warmth = min(1.0, step / 7)
        assert WarmupLinear(50, 7, 0.3)(step) == pytest.approx(theirs.get_last_lr()[0] * warmth, abs=1e-12)
        optimizer.step()
        theirs.step()
    assert WarmupLinear(50, 0, 0.3, 0.1)(25) == pytest.approx(0.2)
