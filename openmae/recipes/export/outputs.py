"""What a classifier's outputs stand for, said to whoever reads them with another library."""

from openmae.console.words import on_one_line
from openmae.data.sources.labels import natural_key
from openmae.heads import Answering
from openmae.weights import Loaded

MOST_SAID = 12  # names in a line


def order(loaded: Loaded) -> list[str]:
    """Sentences: the names in the order of the outputs, and which readers of folders have another."""
    names: list[str] | None = loaded.info.get("class_names")
    if names is None:
        return []
    if loaded.outlines == "detection":
        return [f"Classes of the objects: {listed(names)}"]
    if loaded.outlines is not None:
        return [f"Channels of the scores, the class of a pixel being that of the largest: {listed(names)}"]
    if not isinstance(loaded.model, Answering):
        return []
    return [f"Outputs: {listed(names)}", *_others(names)]


def listed(names: list[str]) -> str:
    """0 a cat, 1 a dog, 2 a horse; of many the first ones and the last."""
    numbered = [f"{number} {on_one_line(name)}" for number, name in enumerate(names)]
    if len(names) > MOST_SAID:
        numbered = [*numbered[: MOST_SAID - 2], "...", numbered[-1]]
    return ", ".join(numbered)


def _others(names: list[str]) -> list[str]:
    """Where folders of these names would be numbered otherwise."""
    readers = {
        "timm's reader of folders": sorted(names, key=natural_key),
        "torchvision's ImageFolder and transformers' imagefolder": sorted(names),
    }
    return [
        f"{reader} would number these classes otherwise ({listed(ordered)}): match them by their names"
        for reader, ordered in readers.items()
        if ordered != names
    ]
