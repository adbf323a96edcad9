"""Tables as .csv, which spreadsheets open: what a name begins with is no formula to them."""

from collections.abc import Iterable
from typing import Any

_OBEYED = ("=", "+", "-", "@", "\t", "\r")  # by spreadsheets, as the beginning of a cell (OWASP, "CSV Injection")


def cells(row: Iterable[Any]) -> list[Any]:
    """The row, with a ' before text that a spreadsheet would take for a formula, and before text that begins as if it
    had been given one. Numbers stay, be they texts."""
    return [f"'{cell}" if isinstance(cell, str) and _is_obeyed(cell) else cell for cell in row]


def _is_obeyed(text: str) -> bool:
    if not text.lstrip("'").startswith(_OBEYED):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def original(cell: str) -> str:
    """The text that became this cell."""
    return cell[1:] if cell.startswith("'") and _is_obeyed(cell[1:]) else cell
