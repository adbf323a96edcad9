"""Pre-train a Vision Transformer on a folder of images by masked autoencoding.

    openmae pretrain your/images --out runs/first

With --model vit_base --batch-size 4096 --epochs 800 this is the paper's recipe (Table 8): AdamW (0.9, 0.95),
base rate 1.5e-4 per 256 images, weight decay 0.05, 5% of warm-up, random resized crop and flip; on ImageNet-1K
such an encoder fine-tunes to 83.6% (ViT-B, 1600 epochs, Table 3). What is left open is chosen from the images
and the machine, and printed with the reason.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from tyro.conf import Positional, arg

from openmae.data.folder import ImageFolder, has_splits, open_folder
from openmae.data.order import generator
from openmae.data.statistics import Statistics, Survey, survey
from openmae.data.stream import Batch, Stream
from openmae.data.views import Augmentation
from openmae.errors import Interrupted, UserError
from openmae.masking import Masking
from openmae.model import MaskedAutoencoder, create_model, patchify
from openmae.recipes.machine import Device, check_room, choose_device, make_console, room_on_disk, workers_for
from openmae.recipes.panel import draw_panel
from openmae.report.page import write_report
from openmae.targets import PCA
from openmae.train.checkpoint import write_file
from openmae.train.loop import Plan, fit, has_fast_bf16
from openmae.train.optimizers import adamw, warmup_cosine
from openmae.train.run import RunFolder, read_config
from openmae.weights import model_json, serialize

Sides = int | tuple[int, int]
_HARMLESS = ("micro_batch", "workers", "device", "checkpoint_minutes")  # may differ between the starts of a run


@dataclass(frozen=True)
class Pretrain:
    """Pre-train a Vision Transformer on unlabelled images by masked autoencoding.

    The same command again, after a crash or Ctrl-C, goes on where the run was. --config FILE.toml gives any of the
    settings below; the command line wins.
    """

    data: Positional[Annotated[Path | None, arg(metavar="DATA")]] = None
    """Folder of images, any depth. If it holds train/ and val/, train/ is used and val/ gives the pictures."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write: config, metrics, checkpoints, pictures, weights, report."""
    resume: bool = False
    """Take DATA and all settings from the run in --out and go on with it."""

    model: Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] | None = None
    """Encoder. Default: vit_base on a GPU, vit_tiny on a CPU."""
    img_size: Sides | None = None
    """Pixels a side that the model sees, one number or height and width. Default: 224, or less for small images."""
    patch_size: Sides | None = None
    """Pixels a side of a patch, one number or height and width. Default: 16 (vit_huge 14), less for small images."""
    in_chans: Literal[1, 3] = 3
    """Channels: 3 for colour, 1 for grey."""
    embed_dim: int | None = None
    """Encoder width, instead of the model's."""
    depth: int | None = None
    """Encoder blocks, instead of the model's."""
    num_heads: int | None = None
    """Encoder heads, instead of the model's."""
    class_tokens: int = 1
    """Class tokens, 0 or more."""
    decoder: Literal["self", "cross"] = "self"
    """self: the paper's. cross: hidden patches read encoder tokens only (CrossMAE), which costs less."""
    decoder_embed_dim: int | None = None
    """Decoder width. Default: 512; 128 for vit_tiny and vit_small."""
    decoder_depth: int | None = None
    """Decoder blocks. Default: 8; 4 for vit_tiny and vit_small."""
    decoder_num_heads: int | None = None
    """Decoder heads. Default: 16; 4 for vit_tiny and vit_small."""
    decoder_layers: int = 1
    """Encoder layers that a cross decoder reads a learned mix of."""
    encoder_mask_token: bool = False
    """Send mask tokens through the encoder too (paper, Table 1c): three times the cost, for comparison."""

    mask_ratio: float = 0.75
    """Share of the patches hidden, above 0 and below 1."""
    mask: Literal["random", "block", "grid", "crop", "uniform"] = "random"
    """How the hidden patches are chosen (paper, Table 1f)."""
    mask_unit: int = 1
    """Hide aligned units of this many patches a side."""
    mask_schedule: Literal["constant", "linear", "cosine", "random"] = "constant"
    """How the ratio goes from --mask-ratio to --mask-ratio-end: over training, or drawn at every step."""
    mask_ratio_end: float | None = None
    """The other end of a --mask-schedule."""
    predict_fraction: float = 1.0
    """Share of the hidden patches that is predicted, above 0 and up to 1."""
    target: Literal["pixel", "pca", "hog"] = "pixel"
    """What is predicted of a patch: its pixels, 96 principal components, or histograms of gradients."""
    norm_pix_loss: bool = True
    """Normalise each target patch by its own mean and deviation: better features (Table 1d)."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Least and most share of an image's area in a random crop; 1 1 takes whole images."""
    hflip: bool = True
    """Mirror half of the views. Switch off where left and right differ in meaning."""
    max_broken: float = 0.01
    """Stop when more than this share of the files cannot be read; up to it they are replaced and listed."""

    epochs: float | None = None
    """Times that every image is seen. Default: 800 on a GPU, 100 on a CPU."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Default: 5% of --epochs (the paper's 40 of 800)."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Default: at most 4096 on a GPU and 256 on a CPU."""
    micro_batch: int | None = None
    """Images that go through the model at once: memory, not the result beyond rounding. Default: 256 on a GPU, 64 on
    a CPU."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Default: 1.5e-4 x sqrt(4096 / batch_size)."""
    weight_decay: float = 0.05
    """On matrices only: not on biases, norms and tokens."""
    clip_grad: float | None = None
    """Bound on the norm of the whole gradient. Default: none, as the paper."""
    seed: int = 0
    """Decides weights, order, crops, flips and masks."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bfloat16 products where the processor has them."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images; 0 loads in this one. Does not change the result."""
    pictures: int = 10
    """How many times a panel of held-out reconstructions is drawn, evenly over the run."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one more comes at the end and on Ctrl-C."""


def run(settings: Pretrain) -> None:
    """Trains, and says what to do with the result. Raises UserError, Interrupted."""
    console = make_console()
    pretrain(settings, console)
    console.print(
        f"\nThe encoder is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  what it fills in:          openmae reconstruct {settings.out} IMAGE --out picture.png\n"
        f"  what its features know:    openmae knn {settings.out} LABELLED_FOLDER\n"
        f"  in Python:                 openmae.load('{settings.out}').encode(images)"
    )


def pretrain(settings: Pretrain, console: Console) -> None:
    """Trains, or goes on training, and leaves a whole run folder. Raises UserError, Interrupted."""
    if settings.resume and settings.out is not None:
        settings = replace(_stored(settings, settings.out), out=settings.out)
    if settings.out is None or settings.data is None:
        raise UserError("say which images to learn from and where the run goes: openmae pretrain DATA --out RUN")
    device = choose_device(settings.device)
    with room_on_disk(settings.out), RunFolder(settings.out) as folder:
        source, held_out = _sources(settings.data, settings.seed)
        console.print(f"{len(source):,} images in {source.root}, {len(held_out)} held out for pictures")
        look = survey(source, settings.in_chans, settings.seed)
        settings = choose(settings, look, len(source), device, console)
        watch = _BrokenFiles(source, folder, settings.max_broken, look)
        model = build(settings)
        config = {**_flat(settings), "steps": _steps(settings, len(source)), **asdict(look.statistics)}
        folder.settle(config, source.fingerprint, _HARMLESS)
        # Weights and two averages of each, in up to 3 checkpoints, and the exported weights.
        check_room(folder.path, needed=sum(p.numel() for p in model.parameters()) * 4 * 10)
        _train(settings, folder, model.to(device), source, held_out, look.statistics, watch, device, console)


def _train(
    settings: Pretrain,
    folder: RunFolder,
    model: MaskedAutoencoder,
    source: ImageFolder,
    held_out: ImageFolder,
    statistics: Statistics,
    watch: "_BrokenFiles",
    device: torch.device,
    console: Console,
) -> None:
    assert settings.batch_size is not None
    assert settings.micro_batch is not None
    assert settings.blr is not None
    assert settings.epochs is not None
    steps = _steps(settings, len(source))
    stream = Stream(
        source,
        settings.in_chans,
        _pair(settings.img_size),
        _pair(settings.patch_size),
        Augmentation(settings.crop_scale, settings.hflip),
        model.masking,
        settings.batch_size,
        steps,
        settings.seed,
    )
    if isinstance(model.target, PCA):
        model.target.fit(_sample_patches(stream, statistics, model.encoder.patch_size))
    warmup_steps = steps * (settings.warmup_epochs or 0.0) / settings.epochs
    lr = settings.blr * settings.batch_size / 256
    plan = Plan(
        steps,
        settings.batch_size,
        lambda step: warmup_cosine(step, steps, warmup_steps, lr),
        settings.clip_grad,
        settings.checkpoint_minutes * 60,
        log_every=max(1, min(50, steps // 200)),
    )
    workers = workers_for(settings.workers, device)

    def batches_from(step: int) -> Iterator[Batch]:
        assert settings.micro_batch is not None
        return watch(stream.batches(step, settings.micro_batch, workers, pin=device.type == "cuda"))

    def loss_of(model: MaskedAutoencoder, batch: Batch) -> Tensor:
        loss: Tensor = model(statistics.normalize(batch.images), batch.visible, batch.queries).loss
        return loss

    def show(step: int) -> dict[str, Any]:
        (folder.path / "pictures").mkdir(exist_ok=True)
        files = [held_out.path(index) for index in range(len(held_out))]
        picture = folder.path / "pictures" / f"step-{step:08d}.png"
        draw_panel(model, statistics, files, held_out.paths, picture, seed=settings.seed)
        save_weights(model, statistics, settings, folder.path, step)
        return {}

    picture_steps = {max(1, round(steps * i / settings.pictures)) for i in range(1, settings.pictures + 1)}
    try:
        fit(
            model,
            loss_of,
            batches_from,
            adamw(model, (0.9, 0.95), settings.weight_decay),
            folder,
            plan,
            device=device,
            precision="bf16" if settings.precision == "bf16" else "fp32",
            console=console,
            name_of=lambda index: source.paths[index],
            after={step: _bind(show, step) for step in picture_steps},
        )
    except Interrupted as stopped:
        write_report(folder.path)
        raise Interrupted(f"{stopped}; the same command goes on from there") from None
    save_weights(model, statistics, settings, folder.path, steps)
    write_report(folder.path)


def build(settings: Pretrain) -> MaskedAutoencoder:
    """The model of resolved settings, its weights drawn from the seed. Raises UserError for what cannot be built."""
    try:
        model = create_model(
            settings.model or "vit_base",
            img_size=_pair(settings.img_size),
            patch_size=_pair(settings.patch_size),
            in_chans=settings.in_chans,
            embed_dim=settings.embed_dim,
            depth=settings.depth,
            num_heads=settings.num_heads,
            class_tokens=settings.class_tokens,
            decoder=settings.decoder,
            decoder_embed_dim=settings.decoder_embed_dim or 512,
            decoder_depth=settings.decoder_depth or 8,
            decoder_num_heads=settings.decoder_num_heads or 16,
            decoder_layers=settings.decoder_layers,
            encoder_mask_token=settings.encoder_mask_token,
            target=settings.target,
            norm_pix_loss=settings.norm_pix_loss,
            masking=Masking(
                settings.mask_ratio,
                settings.mask,
                settings.mask_unit,
                settings.mask_schedule,
                settings.mask_ratio_end,
                settings.predict_fraction,
            ),
        )
        Augmentation(settings.crop_scale, settings.hflip)
        if settings.mask_ratio_end is not None:
            model.masking.counts(model.encoder.grid, settings.mask_ratio_end)
    except ValueError as error:
        raise UserError(str(error)) from error
    model.initialize(torch.Generator().manual_seed(settings.seed))
    return model


# ---------------------------------------------------------------- choices


def choose(settings: Pretrain, look: Survey, images: int, device: torch.device, console: Console) -> Pretrain:
    """The settings with everything that was left open chosen; each choice printed with its reason.

    Raises UserError for values out of range.
    """
    chosen: dict[str, Any] = {}
    reasons: list[str] = []

    def fill(name: str, value: Any, reason: str) -> None:
        if getattr(settings, name) is None or getattr(settings, name) == "auto":
            chosen[name] = value
            reasons.append(f"  --{name.replace('_', '-')} {_shown(value)}: {reason}")

    on_gpu = device.type != "cpu"
    short_side = min(look.size)
    model = settings.model or ("vit_base" if on_gpu else "vit_tiny")
    fill("model", model, f"on a {device.type.upper()}")
    patch = 16 if short_side >= 128 else 8 if short_side >= 64 else 4
    patch = 14 if model == "vit_huge" and patch == 16 else patch
    fill("patch_size", patch, f"the median image is {look.size[0]} x {look.size[1]} pixels")
    size = max(_pair(settings.patch_size or patch))
    img_size = size * max(2, min(224, short_side) // size)
    fill("img_size", img_size, f"the largest multiple of the patch up to 224 and the images' short side {short_side}")
    small = model in ("vit_tiny", "vit_small")
    for name, large_value, small_value in (("embed_dim", 512, 128), ("depth", 8, 4), ("num_heads", 16, 4)):
        fill(
            f"decoder_{name}",
            small_value if small else large_value,
            "the paper's" if not small else "light beside the encoder",
        )
    fill("epochs", 800.0 if on_gpu else 100.0, "the paper's" if on_gpu else "on a CPU")
    fill("warmup_epochs", (settings.epochs or chosen.get("epochs", 0)) * 0.05, "5% of the epochs, as the paper")
    most = 4096 if on_gpu else 256
    batch_size = min(most, max(32, 2 ** int(math.log2(max(1, images / 25)))))
    fill(
        "batch_size",
        batch_size,
        f"for {images:,} images; between 32 and {most} on a {device.type.upper()}",
    )
    batch_size = settings.batch_size or batch_size
    fill("micro_batch", min(batch_size, 256 if on_gpu else 64), "what goes through the model at once")
    fill(
        "blr",
        1.5e-4 * math.sqrt(4096 / max(1, batch_size)),
        "the paper's 1.5e-4 at batch 4096, square-root scaling below",
    )
    bf16 = has_fast_bf16(device)
    fill(
        "precision", "bf16" if bf16 else "fp32", f"the processor has {'fast' if bf16 else 'no fast'} bfloat16 products"
    )
    if reasons:
        console.print("Chosen for you (any flag overrides):\n" + "\n".join(reasons), soft_wrap=True)
    settings = replace(settings, **chosen)
    _check_ranges(settings)
    return settings


def _check_ranges(settings: Pretrain) -> None:
    for name in ("batch_size", "micro_batch", "epochs", "blr"):
        if getattr(settings, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: give a number above 0")
    for name in ("warmup_epochs", "weight_decay", "pictures", "checkpoint_minutes", "seed"):
        if getattr(settings, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: give 0 or more")
    if settings.clip_grad is not None and settings.clip_grad <= 0:
        raise UserError(f"--clip-grad is {settings.clip_grad}: give a number above 0")
    if not 0 <= settings.max_broken <= 1:
        raise UserError(f"--max-broken is {settings.max_broken}: give a share from 0 to 1")
    if (settings.warmup_epochs or 0) >= (settings.epochs or 0):
        raise UserError(f"--warmup-epochs {settings.warmup_epochs} is not below --epochs {settings.epochs}: lower it")


def _steps(settings: Pretrain, images: int) -> int:
    assert settings.epochs is not None
    assert settings.batch_size is not None
    return max(1, round(settings.epochs * images / settings.batch_size))


def _stored(settings: Pretrain, out: Path) -> Pretrain:
    """The settings of the run in `out`; what is given on the command line stays, to be compared with them."""
    stored = read_config(out)
    values: dict[str, Any] = {}
    for field in fields(settings):
        given = getattr(settings, field.name)
        if given == field.default and field.name in stored:
            value = stored[field.name]
            given = Path(value) if field.name == "data" else tuple(value) if isinstance(value, list) else value
        values[field.name] = given
    return Pretrain(**values)


def _flat(settings: Pretrain) -> dict[str, Any]:
    values = asdict(settings)
    del values["resume"], values["out"]
    return {**values, "data": str(settings.data)}


def _pair(sides: Sides | None) -> tuple[int, int]:
    assert sides is not None
    return sides if isinstance(sides, tuple) else (sides, sides)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _bind(function: Callable[[int], dict[str, Any]], step: int) -> Callable[[], dict[str, Any]]:
    return lambda: function(step)


# ---------------------------------------------------------------- images


def _sources(data: Path, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """(training images, held-out images for the panel): from val/ where there is one, else up to 8 set aside."""
    source = open_folder(data, "train")
    if has_splits(data):
        val = open_folder(data, "val")
        return source, val.take(generator(seed, "split").permutation(len(val))[:8])
    order = generator(seed, "split").permutation(len(source))
    count = min(8, len(source) // 10)
    if count == 0:  # too few to set any aside
        return source, source.take(order[:8])
    return source.take(np.sort(order[count:])), source.take(order[:count])


class _BrokenFiles:
    """Lists broken files in the run folder, and stops the run when they are too many."""

    def __init__(self, source: ImageFolder, folder: RunFolder, max_share: float, look: Survey) -> None:
        self.source, self.file, self.max_share = source, folder.path / "broken.txt", max_share
        self.seen: dict[str, str] = {}
        if not folder.checkpoints.exists():  # the run begins, and files that an earlier start listed may be mended
            self.file.unlink(missing_ok=True)
        elif self.file.exists():
            self.seen = dict(line.split("\t", 1) for line in self.file.read_text().splitlines() if "\t" in line)
        self._note(list(look.broken), of=look.looked_at)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each after its broken files were noted. Raises UserError where there are too many."""
        for batch in batches:
            self._note(batch.broken, of=len(self.source))
            if batch.failure:
                raise UserError(batch.failure)
            yield batch

    def _note(self, broken: list[tuple[int, str]], of: int) -> None:
        new = {self.source.paths[i]: reason for i, reason in broken if self.source.paths[i] not in self.seen}
        if not new:
            return
        self.seen |= new
        with self.file.open("a") as file:
            file.writelines(f"{path}\t{reason}\n" for path, reason in new.items())
        if len(self.seen) > self.max_share * of:
            first = "; ".join(f"{path}: {reason}" for path, reason in list(self.seen.items())[:3])
            raise UserError(
                f"{len(self.seen)} of {of} files cannot be used, more than --max-broken {self.max_share:g} allows "
                f"({first}); all are listed in {self.file}: mend or remove them, or raise --max-broken"
            )


def _sample_patches(stream: Stream, statistics: Statistics, patch_size: tuple[int, ...]) -> Tensor:
    """Patches (n, P) of the first training views, enough for the principal components."""
    batch = stream.__getitems__(list(range(min(512, stream.batch_size))))
    return patchify(statistics.normalize(batch.images), patch_size).flatten(0, 1)


def save_weights(model: MaskedAutoencoder, statistics: Statistics, settings: Pretrain, run: Path, step: int) -> None:
    """model.safetensors and model.json of the run, each complete or as it was before."""
    provenance = {"job": "pretrain", "data": str(settings.data), "step": step, "seed": settings.seed}
    info = model_json(model, statistics, provenance)
    write_file(run / "model.safetensors", serialize(model, info))
    write_file(run / "model.json", json.dumps(info, indent=1).encode())
