"""What `openmae demo` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.recipes.asked import AskedDecoderHeads, AskedDevice, AskedFiles, AskedReading


@dataclass(frozen=True)
class Demo(AskedDecoderHeads, AskedFiles, AskedReading):
    """Open a page on this machine that shows what a model makes of an image: hide patches of it with the mouse, and see
    them filled in; what a patch attends to; the nearest images; what a fine-tuned model says, and why.

    Nothing leaves this machine, and nobody else can open the page. Ctrl-C ends it.
    """

    model: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder, pre-trained or fine-tuned, or whatever else openmae.load takes: see docs/weights.md. Where the
    images of a run are still there, some of them are shown."""
    neighbours: Annotated[str | None, arg(metavar="DATA")] = None
    """Show the images of DATA that are nearest to yours, by the model's features. They are embedded before the page
    opens."""
    port: int | None = None
    """Where the page is served. Default: one that is free."""
    open: bool = True
    """Open the page in the browser, where there is one."""
    device: AskedDevice = "auto"
