"""What `openmae demo` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.errors import UserError
from openmae.recipes.asked import AskedDecoderHeads, AskedDevice, AskedFiles, AskedReading


@dataclass(frozen=True)
class Demo(AskedDecoderHeads, AskedFiles, AskedReading):
    """Open a page on this machine that shows what a model makes of an image: hide patches of it with the mouse, and see
    them filled in; what a patch attends to; the nearest images; what a fine-tuned model says, and why.

    Nothing leaves this machine, and nobody else can open the page. Ctrl-C ends it. With --to-file the page becomes a
    file to send.
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
    to_file: Annotated[Path | None, arg(metavar="HTML")] = None
    """Write the page to this file instead, model and all, for whoever has a browser and nothing else: it needs no
    server and no network. docs/demo.md says what it leaves out."""
    samples: bool = True
    """Put images of the run into the file: those that are offered on the page."""
    runtime: Annotated[Path | None, arg(metavar="TGZ")] = None
    """What runs the model in a browser, onnxruntime-web as npm packs it, where there is no network to take it from.
    Default: the one that was taken before, or the npm registry's."""
    device: AskedDevice = "auto"

    def __post_init__(self) -> None:
        """Raises UserError for what goes with a server or with a file alone."""
        if self.to_file is None:
            if self.runtime is not None or not self.samples:
                only = "--no-samples" if self.runtime is None else "--runtime"
                raise UserError(f"{only} is for a page that is a file", "give --to-file demo.html, or leave it out")
        elif self.neighbours is not None or self.port is not None:
            only = "--port" if self.neighbours is None else "--neighbours"
            raise UserError(
                f"{only} needs a server, and --to-file makes a page that has none", "leave out one of the two"
            )
