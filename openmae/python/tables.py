"""Rows as whoever works with them expects: a pandas table where that is installed."""

import importlib.util
from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """A pandas.DataFrame, or the rows themselves where pandas is not installed."""
    if importlib.util.find_spec("pandas") is None:
        return list(rows)
    import pandas

    return pandas.DataFrame(list(rows))
