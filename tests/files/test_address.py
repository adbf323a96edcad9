"""Addresses without their secrets, and with them where they are asked."""

import pytest

from openmae.errors import UserError
from openmae.files.address import hide, know, secrets, shown, whole


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("https://ann:hunter2@host:80/a/{0..3}.tar", "https://***@host:80/a/{0..3}.tar"),
        ("https://hunter2@host/a.tar", "https://***@host/a.tar"),
        ("https://ann:p@hunter2@host/a.tar", "https://***@host/a.tar"),
        ("https://host/{0..3}.tar?token=s3cr3t==&x=2", "https://host/{0..3}.tar?token=***&x=***"),
        (
            "https://host/a.tar?X-Amz-Signature=S1GN&X-Amz-Date=1",
            "https://host/a.tar?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("https://host/a.tar?s3cr3t", "https://host/a.tar?***"),
        ("https://host/my data/a.tar?sig=s3cr3t and more", "https://host/my data/a.tar?sig=***"),
        ("https://host/get?path=/d/{0..3}.tar&sig=s3cr3t", "https://host/get?path=/d/{0..3}.tar&sig=***"),
        ("s3://bucket/what?.tar", "s3://bucket/what?.tar"),
        ("s3://key:hunter2@bucket/a.tar", "s3://***@bucket/a.tar"),
        ("data/with@sign?and=mark", "data/with@sign?and=mark"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, hidden: str) -> None:
    assert hide(url) == hidden
    assert hide(hidden) == hidden
    assert shown(hidden) == hidden
    assert whole(hidden.replace("{0..3}", "2")) == url.replace("{0..3}", "2")
    if " " not in url:
        assert shown(f"see {url}: it failed, and {url}.") == f"see {hidden}: it failed, and {hidden}."


def test_secrets_that_are_not_known_are_asked_for() -> None:
    with pytest.raises(UserError, match="give DATA again"):
        whole("https://***@nowhere/a.tar")
    with pytest.raises(UserError, match="give DATA again"):
        whole("https://nowhere/a.tar?token=***")
    hide("https://nowhere/a.tar?token=one&sig=two")
    users, values = secrets()
    know((users, values))
    assert whole("https://nowhere/a.tar?token=***&sig=***") == "https://nowhere/a.tar?token=one&sig=two"


def test_two_who_ask_one_host_are_told_apart() -> None:
    hide("https://ann:1@one.host/d/x-{0..9}.tar")
    hide("https://bob:2@one.host/l/0.tar")
    assert whole("https://***@one.host/d/x-3.tar") == "https://ann:1@one.host/d/x-3.tar"
    assert whole("https://***@one.host/d/index.json") == "https://ann:1@one.host/d/index.json"
    assert whole("https://***@one.host/l/index.json") == "https://bob:2@one.host/l/index.json"
    hide("https://bob:3@one.host/l/0.tar")  # renewed
    assert whole("https://***@one.host/l/0.tar") == "https://bob:3@one.host/l/0.tar"
