"""What `openmae export` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.recipes.asked import MODEL, AskedDecoderHeads, AskedFiles, AskedReading

To = Literal["safetensors", "timm", "hf-mae", "hf-vit", "onnx", "pt2"]
Quantize = Literal["int8", "fp16"]


@dataclass(frozen=True)
class Export(AskedDecoderHeads, AskedFiles, AskedReading):
    """Write a model in another library's format, and check it with that library on real images."""

    model: Positional[Annotated[Path, MODEL]]
    to: To
    """safetensors: openmae's own file. timm: for timm.create_model. hf-mae, hf-vit: a folder for transformers, with the
    decoder (ViTMAEForPreTraining) or without it (ViTModel, ViTForImageClassification or, of a mean of patches,
    BeitForImageClassification). onnx, pt2: a graph for onnxruntime or torch.export, for any number of images;
    of a segmenter, of (B, K, H, W) scores. onnx of a detector: the objects of one window."""
    out: Annotated[Path, arg(metavar="PATH")]
    """A file that ends in .safetensors (for timm too), .onnx or .pt2; for hf-mae and hf-vit a folder. NAME.json beside
    the file, model.json in the folder, says what it is and how to prepare images."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Images to check it on. Default: photographs that come with the installation."""
    quantize: Quantize | None = None
    """Make an ONNX graph smaller: int8 for CPUs, fp16 for GPUs. What that costs is measured, on DATA where it is given:
    accuracy where it has labels."""
    force: bool = False
    """Write over what is there."""
