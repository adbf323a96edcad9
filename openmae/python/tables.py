"""Rows as whoever works with them expects: a pandas table where that is installed."""

import csv
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """A pandas.DataFrame, or the rows themselves where pandas is not installed."""
    if importlib.util.find_spec("pandas") is None:
        return list(rows)
    import pandas

    return pandas.DataFrame(list(rows))


def read_table(file: Path) -> Any:
    """The same of a .csv (whose cells are texts where pandas is not installed), .jsonl or .parquet."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        from pyarrow import parquet

        return table(parquet.read_table(file).to_pylist())
    with file.open(encoding="utf-8", newline="") as text:
        if kind == ".jsonl":
            return table([json.loads(line) for line in text])
        if importlib.util.find_spec("pandas") is None:
            return list(csv.DictReader(text))
        import pandas

        return pandas.read_csv(text)
