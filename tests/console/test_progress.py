"""The time left is what people look for: it is there however narrow the terminal."""

from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from openmae.console.progress import Progress, counting, of_next
from openmae.console.terminal import make_console


def terminal(width: int) -> Console:
    return Console(
        file=StringIO(), force_terminal=True, width=width, record=True, color_system=None, legacy_windows=False
    )


@settings(deadline=None, max_examples=25)
@given(width=st.integers(40, 160), steps=st.integers(1, 10**6), rate=st.floats(0, 1e6), seconds=st.floats(0, 1e6))
def test_a_training(width: int, steps: int, rate: float, seconds: float) -> None:
    console = terminal(width)
    with Progress(steps, console) as progress:
        progress.show(steps // 2, 1.2345, 1e-3, rate, 0.5, seconds)
    lines = console.export_text().splitlines()
    assert lines[-1].startswith(f"step {steps // 2}/{steps} · ")
    assert lines[-1].endswith(" left")
    assert len(lines[-1]) <= width


@settings(deadline=None, max_examples=10)
@given(width=st.integers(40, 160), total=st.integers(10, 10**7), more=st.sampled_from(["", "12 broken"]))
def test_a_count_of_images(width: int, total: int, more: str) -> None:
    console = terminal(width)
    with counting("reading train", total, console) as say:
        say(total // 2, more)
        console.print("looked")  # which draws the bar anew
    *_, line = (line.strip() for line in console.export_text().splitlines() if line.rstrip().endswith(" left"))
    drawn = line[line.rindex("reading train ") :]  # over what was there before
    assert len(drawn) <= width


def test_how_much_of_an_image_is_done_is_said() -> None:
    console = terminal(100)
    with counting("segmenting", 3, console) as say:
        of_next(say, 1)(0.25)
        console.print("looked")
    assert "1 of 3 images and 25% of the next" in console.export_text()


def test_what_fits_is_shown() -> None:
    console = terminal(100)
    with Progress(2375, console) as progress:
        progress.show(1246, 0.385, 1e-3, 669, 0.02, 110)
    said = "step 1246/2375 · loss 0.3850 · lr 1.00e-03 · 669 images/s · data wait 2% · 1 min 50 s left"
    assert console.export_text().splitlines()[-1] == said


def test_a_console_whose_stream_was_closed_ends_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python closes what a console writes to before the console, or after it; both flush."""
    stream = StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    console = make_console(outlives_terminal=True)
    console.print("done")
    assert "done" in stream.getvalue()
    stream.close()
    console.file.flush()
    console.file.close()
