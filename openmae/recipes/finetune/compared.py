"""compared.json of a run: fine-tuning beside what is simpler, on the same val images, and which to use."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from openmae.errors import UserError
from openmae.files.parsing import read_json, to_json
from openmae.files.whole import write_file
from openmae.report.page.compared import COMPARED, heading, verdict
from openmae.report.page.results import shown_value
from openmae.report.plots.curves import is_number


def put_rows(
    run: Path, about: dict[str, Any], rows: list[dict[str, Any]], instead_of: Collection[str] | None = None
) -> None:
    """Writes rows below the others, in place of those of the same names, or of these.

    about: "metric", and how many "images" judge. Raises OSError.
    """
    gone = [row["name"] for row in rows] if instead_of is None else instead_of
    rows = [row for row in _read(run).get("rows", []) if row["name"] not in gone] + rows
    write_file(run / COMPARED, to_json({**about, "rows": rows}, indent=1))


def show_compared(run: Path, console: Console) -> None:
    """The table and which to use, where there is more than the fine-tuning itself to show."""
    found = _read(run)
    rows = found.get("rows", [])
    if len(rows) < 2 or not any(row["weights"] == "" for row in rows):
        return
    metric = found["metric"]
    table = Table("", heading(found), "weights")
    for row in rows:
        value = shown_value(metric, row["figure"], row["error"]) if is_number(row["figure"]) else "-"
        where = "-" if row["weights"] is None else str(run / row["weights"])
        table.add_row(row["name"], value, where)
    table.columns[1].justify = "right"
    console.print(table)
    console.print(verdict(found, str(run)), soft_wrap=True)


def _read(run: Path) -> dict[str, Any]:
    """What is there; empty where there is nothing. Raises UserError where it is damaged."""
    file = run / COMPARED
    try:
        found = read_json(file.read_bytes()) if file.exists() else {}
        rows = [{key: row[key] for key in ("name", "figure", "error", "weights")} for row in found.get("rows", [])]
        return {**found, "rows": rows}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error})", "move it away") from error
