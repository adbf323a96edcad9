"""What is predicted for a hidden patch: pixels, normalised pixels, PCA coefficients or HOG.

A target is a module `(images (B, C, *S), patches (B, N, P)) -> (B, N, values)`, in float32. Where it is
`per_patch`, any selection of the patches may be given instead of all. `to_pixels` goes back, where there is a
way back, given each patch's mean and standard deviation.

Shapes: B images, C channels, S sides in pixels, N patches, P values in a patch = prod(patch_size) * C,
K coefficients or histogram values.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import BadValue, UserError
from openmae.own import Own


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, both (..., 1): unbiased variance, plus 1e-6, then the root
    (method: MAE section 4, "reconstruction target", and the released code's numbers)."""
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (var + 1e-6).sqrt()


class Pixel(nn.Module):
    """The patch as it is."""

    needs_statistics = False
    per_patch = True

    def __init__(self, patch_size: tuple[int, ...], in_chans: int) -> None:
        super().__init__()
        self.values = math.prod(patch_size) * in_chans

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, N, P)."""
        return patches

    def to_pixels(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """(B, N, P) values back to pixels (B, N, P)."""
        return values


class NormPix(nn.Module):
    """The patch minus its own mean, over its own standard deviation (Table 1d: better features).

    A patch of one value has no variance, so this target needs two or more.
    """

    needs_statistics = True
    per_patch = True

    def __init__(self, patch_size: tuple[int, ...], in_chans: int) -> None:
        super().__init__()
        self.values = math.prod(patch_size) * in_chans
        if self.values < 2:
            raise BadValue("the norm_pix target needs patches of 2 values or more", "turn norm_pix_loss off")

    def statistics(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(..., P) -> mean and deviation of each patch, both (..., 1)."""
        return patch_statistics(patches)

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, N, P)."""
        mean, std = self.statistics(patches)
        return (patches - mean) / std

    def to_pixels(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """(B, N, P) values and the statistics (B, N, 1) of their patches back to pixels (B, N, P)."""
        return values * std + mean


class NormPixByChannel(NormPix):
    """Each channel of the patch minus its own mean, over one standard deviation of what is left.

    The offset between channels is no pattern then: of a grey patch stored as colour the target is that of its one
    channel three times, and of a patch of one colour it is 0, as of a grey one.
    """

    def __init__(self, patch_size: tuple[int, ...], in_chans: int) -> None:
        super().__init__(patch_size, in_chans)
        self.in_chans = in_chans
        if math.prod(patch_size) < 2:
            raise BadValue("the norm_pix target by channel needs patches of 2 pixels or more", "turn norm_pix_loss off")

    def statistics(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(..., P) -> means (..., C), deviation (..., 1): of what the channels' means leave, unbiased."""
        pixels = patches.unflatten(-1, (-1, self.in_chans))
        mean = pixels.mean(-2)
        left = (pixels - mean[..., None, :]).flatten(-2)
        var = left.square().sum(-1, keepdim=True) / (self.values - self.in_chans)
        return mean, (var + 1e-6).sqrt()

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, N, P)."""
        mean, std = self.statistics(patches)
        return (patches - self._tiled(mean)) / std

    def to_pixels(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """(B, N, P) values and the statistics of their patches, (B, N, C) and (B, N, 1), back to pixels (B, N, P)."""
        return values * std + self._tiled(mean)

    def _tiled(self, mean: Tensor) -> Tensor:
        """(..., C) -> (..., P): the channels of a pixel lie side by side."""
        return mean.repeat(*(1,) * (mean.ndim - 1), self.values // self.in_chans)


class PCA(nn.Module):
    """The leading coefficients of the patch in the data's own principal components (Table 1d: 96 of them).

    `fit` sets the components from sample patches before training; they are saved with the weights. All
    coefficients are divided by one number, so that the target's mean square is about 1 whatever the data,
    while the leading coefficients keep their larger share of the loss.
    """

    needs_statistics = False
    per_patch = True
    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, patch_size: tuple[int, ...], in_chans: int, coefficients: int = 96) -> None:
        super().__init__()
        size = math.prod(patch_size) * in_chans
        self.values = min(coefficients, size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(size, self.values))  # (P, K)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Sets the components from sample patches (n, P), n >= K."""
        if len(patches) < self.values:
            raise ValueError(f"PCA of {self.values} coefficients needs as many patches; got {len(patches)}")
        x = patches.double()
        mean = x.mean(0)
        cov = (x - mean).T @ (x - mean) / len(x)
        variances, vectors = torch.linalg.eigh(cov)  # ascending
        vectors = vectors.flip(1)[:, : self.values]
        # A component's sign is arbitrary: fixed here, so that two runs on one data set agree.
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.components.copy_(vectors * signs)
        self.scale.copy_(variances.flip(0)[: self.values].mean().sqrt().clamp_min(1e-6))

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, N, K)."""
        return (patches - self.mean) @ self.components / self.scale

    def to_pixels(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """(B, N, K) coefficients to the pixels (B, N, P) that they stand for."""
        return values * self.scale @ self.components.T + self.mean


class HOG(nn.Module):
    """Histograms of oriented gradients of the patch's cells, each patch's set to unit length.

    9 orientations over 180 degrees, per channel; a patch is 2 cells a side (1 where its side is odd).
    Definition of Dalal and Triggs (CVPR 2005) as in scikit-image; as a target: MaskFeat (arXiv 2112.09133).
    Images of two axes only. There is no way back to pixels.
    """

    needs_statistics = False
    per_patch = False
    orientations = 9

    def __init__(self, patch_size: tuple[int, ...], in_chans: int) -> None:
        super().__init__()
        if len(patch_size) != 2:
            raise ValueError(f"the HOG target is for images of 2 axes, not {len(patch_size)}")
        self.patch_size = patch_size
        self.cells = tuple(1 if side % 2 else 2 for side in patch_size)
        self.values = in_chans * math.prod(self.cells) * self.orientations

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, K), K in the order (cell row, cell column, channel, orientation)."""
        x = images.float()
        rows, columns = torch.zeros_like(x), torch.zeros_like(x)
        rows[..., 1:-1, :] = x[..., 2:, :] - x[..., :-2, :]
        columns[..., :, 1:-1] = x[..., :, 2:] - x[..., :, :-2]
        magnitude = torch.hypot(rows, columns)  # (B, C, H, W)
        turn = torch.rad2deg(torch.atan2(rows, columns)) % 180
        bins = (turn * (self.orientations / 180)).long().clamp(0, self.orientations - 1)
        histogram = torch.zeros(*x.shape, self.orientations, device=x.device)
        histogram.scatter_(-1, bins[..., None], magnitude[..., None])  # (B, C, H, W, 9)
        (ph, pw), (ch, cw) = self.patch_size, self.cells
        b, c, h, w = x.shape
        split = histogram.view(b, c, h // ph, ch, ph // ch, w // pw, cw, pw // cw, self.orientations)
        cells = split.mean(dim=(4, 7))  # (B, C, grid rows, ch, grid columns, cw, 9)
        hog = cells.permute(0, 2, 4, 3, 5, 1, 6).reshape(b, (h // ph) * (w // pw), self.values)
        return hog / (hog.square().sum(-1, keepdim=True) + 1e-10).sqrt()


class OwnTarget(nn.Module):
    """Somebody's own: a function, or a module at rest, (images (B, C, *S), patches (B, N, P)) -> (B, N, K).

    It is no part of the model: it does not learn, and is not kept with the weights; one that has no `made` says so when
    it is asked. There is no way back to pixels.
    """

    needs_statistics = False
    made: Any

    def __init__(self, name: str, values: int) -> None:
        """name: own:NAME, an `Own` where the thing is here. values: K."""
        super().__init__()
        self.name, self.values = name, values
        made = name.made if isinstance(name, Own) else None
        self.per_patch = bool(getattr(made, "per_patch", False))
        self.__dict__["made"] = made  # past torch, which would take a module for a part of this one

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        """(B, C, *S), (B, N, P) -> (B, N, K). Raises UserError where it is not here, or gives another shape."""
        if self.made is None:
            raise UserError(
                f"the target of this model was made by whoever trained it ({self.name}), and is not kept with it",
                "give it by openmae.load(MODEL, target=...); its encoder needs none",
            )
        if isinstance(self.made, nn.Module):
            self.made.to(images.device)
        found: Tensor = self.made(images, patches)
        expected = (*patches.shape[:2], self.values)
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"the target {self.name} gives {shape}, not {expected}", "give (B, N, K) for N patches")
        return found.float()


@torch.no_grad()
def values_of(target: Own, img_size: tuple[int, ...], patch_size: tuple[int, ...], in_chans: int) -> int:
    """K of somebody's own target, by asking it about two images of noise. Raises UserError where it gives others."""
    if isinstance(target.made, nn.Module):
        target.made.eval().requires_grad_(False)
    patches = math.prod(side // part for side, part in zip(img_size, patch_size, strict=True))
    with torch.device("cpu"):  # not where a model is built without weights
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(2, in_chans, *img_size, generator=draws)
        found = target.made(images, torch.randn(2, patches, math.prod(patch_size) * in_chans, generator=draws))
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != (2, patches):
        said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"the target {target.name} gives {said} for 2 images of {patches} patches",
            f"give a tensor (2, {patches}, K)",
        )
    return int(found.shape[2])


Target = Pixel | NormPix | PCA | HOG | OwnTarget
TARGETS: dict[str, type[Pixel] | type[NormPix] | type[PCA] | type[HOG]] = {
    "pixel": Pixel,
    "norm_pix": NormPix,
    "norm_pix_by_channel": NormPixByChannel,
    "pca": PCA,
    "hog": HOG,
}


def make_target(name: str, patch_size: tuple[int, ...], in_chans: int, values: int | None = None) -> Target:
    """By its name in TARGETS; or somebody's own, of so many values."""
    return TARGETS[name](patch_size, in_chans) if values is None else OwnTarget(name, values)
