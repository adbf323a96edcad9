"""What `openmae bench` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from openmae.machine.kinds import Precision
from openmae.recipes.asked import AskedDevice


@dataclass(frozen=True)
class Bench:
    """Measure how fast a pre-training step is here, beside other implementations: forward, backward and update, on
    random images. Those of transformers, lightly and birder take part where they are installed."""

    model: Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] | None = None
    """Encoder. Default: vit_base on a GPU, vit_small on a CPU."""
    img_size: int = 224
    """Pixels a side."""
    precision: tuple[Precision, ...] | None = None
    """bf16, fp32 or both, a table each. Default: both, bf16 only where the processor has such products."""
    device: AskedDevice = "auto"
    micro_batch: int | None = None
    """Images of a step. Default: on a GPU the most, up to 512, that every contender can hold; on a CPU as many, up to
    64, as take openmae 8 seconds."""
    mask_ratio: float = 0.75
    """Share of the patches hidden, above 0 and below 1."""
    decoder_depth: int = 8
    """Decoder blocks."""
    rounds: int = 5
    """Times that every contender has a turn, of a second or a step."""
    compile: bool = False
    """Measure openmae and transformers with torch.compile too; needs a C++ compiler on a CPU."""
    peer: Annotated[tuple[str, ...], arg(metavar="PATH:CALLABLE")] = ()
    """Measure these too: a Python file and a callable in it that gives a torch module, which takes images to their
    loss. Several with spaces between them."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder to write: bench.json, bench.md, bench.svg."""
