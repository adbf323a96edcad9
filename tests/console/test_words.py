"""Names from outside, made safe for where they are shown."""

from unicodedata import category

from hypothesis import given
from hypothesis import strategies as st

from openmae.console.words import drawable, encodable, on_one_line, pace, printable

ANY = st.text(st.characters(exclude_categories=()))  # with halves of characters, which stand for bytes that are no text
COMMANDS = ("Cc", "Cs")  # those of a terminal, and halves of characters


@given(ANY)
def test_a_terminal_gets_no_commands(text: str) -> None:
    assert all(category(letter) not in COMMANDS or letter in "\t\n" for letter in printable(text))


@given(ANY)
def test_a_list_gets_one_line(text: str) -> None:
    line = on_one_line(text)
    assert all(category(letter) not in COMMANDS for letter in line)
    assert len(line.splitlines()) <= 1


@given(ANY)
def test_a_file_gets_text(text: str) -> None:
    assert encodable(text).encode().decode() == encodable(text)


@given(st.text())
def test_a_file_gets_text_as_it_is(text: str) -> None:
    assert encodable(text) == text


@given(ANY)
def test_a_picture_gets_as_many_letters_that_show(text: str) -> None:
    shown = drawable(text)
    assert len(shown) == len(text)
    assert shown.isprintable()


def test_a_pace_is_said_of_one_image_and_of_many() -> None:
    assert pace(1, 0.25) == "1 image in less than a second, 4 images/s"
    assert pace(2_500, 20.0) == "2,500 images in 20 s, 125 images/s"
