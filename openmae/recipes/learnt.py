"""What a model remembers of the data that it learnt labels from."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from openmae.data.sources.selection import Selection
from openmae.data.sources.table import columns_of
from openmae.files.address import whole_address
from openmae.own import is_own
from openmae.train.run import read_config
from openmae.weights import Loaded


def learnt_from(model: Path, loaded: Loaded) -> str:
    """The address of the data that the model was fine-tuned on; empty where it is not known."""
    if (model / "config.toml").exists() and (data := read_config(model).get("data")):
        return whole_address(str(data))
    data = str(loaded.info["provenance"].get("data") or "")
    # What goes to others says a name alone, and no place.
    is_place = Path(data).is_absolute() or "://" in data or is_own(data) or (model / "config.toml").exists()
    return whole_address(data) if data and is_place else ""


def selected_then(loaded: Loaded) -> Selection:
    """What was asked of the data that the model learnt from."""
    return Selection.from_dict(loaded.info["provenance"].get("selection", {}))


def as_learnt(asked: Selection, data: str, model: Path, loaded: Loaded, console: Console) -> Selection:
    """What is asked of DATA, and where the model learnt from it, what was asked of it then and is not asked anew. Of
    another table the column of the labels alone."""
    if whole_address(data) != learnt_from(model, loaded):
        return replace(asked, label_column=label_column(asked.label_column, data, model, loaded, console))
    before, now = selected_then(loaded).to_dict(), asked.to_dict()
    if asked.group_by or asked.group_column:  # either says it all
        before = {name: value for name, value in before.items() if not name.startswith("group_")}
    return Selection.from_dict(before | now)


def label_column(asked: str | None, data: str, model: Path, loaded: Loaded, console: Console) -> str | None:
    """The column of DATA's labels: as asked for; else the one that the model learnt from, where DATA has it, which is
    said; None for the column that is taken otherwise."""
    column = selected_then(loaded).label_column
    if asked is not None or column is None:
        return asked
    is_known = whole_address(data) == learnt_from(model, loaded)
    if not is_known and column not in columns_of(Path(data)):
        return None
    console.print(
        f"Labels: the column {column}, which {model} learnt from (--label-column takes another)",
        highlight=False,
        soft_wrap=True,
    )
    return column
