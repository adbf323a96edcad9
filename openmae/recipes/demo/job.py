"""A page on this machine that shows what a model makes of an image.

openmae demo runs/first
openmae demo runs/first --neighbours your/images --port 8000 --no-open
openmae demo runs/first --to-file demo.html
"""

import os
import sys
import webbrowser

from openmae.console.terminal import make_console
from openmae.errors import UserError
from openmae.machine.device import choose_device
from openmae.recipes.demo.answers import Answers
from openmae.recipes.demo.others import neighbours_in, samples_of
from openmae.recipes.demo.settings import Demo
from openmae.web.server import PageServer
from openmae.weights import load_model
from openmae.weights.loaded import say_origin


def run(settings: Demo) -> None:
    """Serves the page until it is interrupted, or writes it to a file. Raises UserError."""
    console = make_console()
    if settings.port is not None and not 1 <= settings.port <= 65535:
        raise UserError(f"--port is {settings.port}", "give 1 to 65535, or leave it out for one that is free")
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    if len(loaded.encoder.img_size) != 2:
        raise UserError(f"{loaded.name} is for images of {len(loaded.encoder.img_size)} axes", "the page shows 2")
    if settings.to_file is not None:
        from openmae.recipes.demo.file import write_page  # with torch's exporter, which takes a while

        write_page(settings.to_file, settings, loaded, console)
        return
    device = choose_device(settings.device)
    with PageServer(settings.port or 0) as server:
        samples = samples_of(settings.model, loaded, settings.reading)
        near = settings.neighbours and neighbours_in(
            settings.neighbours, settings.selection, settings.reading, loaded, device, console
        )
        answers = Answers(loaded, settings.reading, device, samples, near or None)
        server.routes = answers.routes
        if missing := answers.about()["missing"]:
            console.print(missing, style="yellow", soft_wrap=True)
        console.print(f"{server.address}\nOnly this machine can open it. Ctrl-C ends it.", soft_wrap=True)
        if settings.open and not _open(server.address):
            console.print("There is no browser here that could be opened: open the address in one.", soft_wrap=True)
        server.serve_forever()


def _open(address: str) -> bool:
    """Opens it in the browser; whether there is one that has a window, for those in a terminal would take it over."""
    has_window = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    try:
        return has_window and webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False
