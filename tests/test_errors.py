"""What a user is told: its two parts, and who says it."""

import pickle

import pytest

from openmae.errors import BrokenImage, UserError, said_once


@pytest.mark.parametrize("kind", [UserError, BrokenImage])
def test_a_sentence_has_two_parts_also_in_another_process(kind: type[UserError | BrokenImage]) -> None:
    error = kind("there are 3: of them, one is broken", "mend it")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is kind
        assert (one.what, one.advice) == ("there are 3: of them, one is broken", "mend it")
        assert str(one) == "there are 3: of them, one is broken: mend it"
    assert str(kind("it is over")) == "it is over"


@pytest.mark.parametrize(("rank", "said"), [("0", "no: go"), ("1", "")])
def test_the_first_process_of_a_machine_speaks_for_all(rank: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(UserError) as raised, said_once():
        raise UserError("no", "go")
    assert str(raised.value) == said
