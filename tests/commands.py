"""Commands as a user types them: what the tests of several commands share."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs a command in this process -> exit code, output, errors: the fixture `run`."""


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2 and one sentence on standard error that has these words in it, and no traceback."""
    code, _, errors = result
    assert code == 2, errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert "Traceback" not in errors
    assert errors.endswith(".\n")
    assert not errors.endswith(("?.\n", "..\n"))
    for word in words:
        assert word in errors
