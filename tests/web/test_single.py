"""The page as one file: what lies in it, and in which order."""

import base64
import gzip
import hashlib
import re

import pytest

from openmae.web.single import bundled, single_page


def test_a_page_says_what_may_run_and_holds_the_rest() -> None:
    page = single_page("file/file.js", ["globalThis.ort = 1;"], {"x": "</script><b>"}, {"graph": b"\0" * 99}, "a -- b")
    text = page.decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    for kind, wanted in (("script", r'<script type="module">(.*?)</script>'), ("style", "<style>(.*?)</style>")):
        parts = re.findall(wanted, text, re.DOTALL)
        said = re.search(f"{kind}-src ([^;]*)", policy[1])
        assert said is not None
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert re.findall("'sha256-([^']*)'", said[1]) == hashes
    assert "default-src 'none'" in policy[1]
    assert not re.search("unsafe-inline|'unsafe-eval'|http|blob", policy[1])
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<!--\na - - b\n-->" in text
    assert text.count("</script>") == 4
    assert r'{"x": "\u003c/script>\u003cb>"}' in text
    (letters,) = re.findall('id="graph">([^<]*)<', text)
    assert gzip.decompress(base64.b64decode(letters)) == b"\0" * 99
    for bad in ("a = '</SCRIPT>';", "<!-- x"):
        with pytest.raises(ValueError, match="a script holds"):
            single_page("file/file.js", [bad], {}, {})


def test_modules_come_after_what_they_need() -> None:
    text = bundled("file/file.js")
    order = re.findall(r'^modules\["([^"]+)"\] = ', text, re.MULTILINE)
    assert order[-1] == "file/file.js"
    assert len(order) == len({*order})
    assert "server.js" not in order
    assert not re.search("^(import|export) ", text, re.MULTILINE)
    for name in re.findall(r'= modules\["([^"]+)"\];', text):
        assert text.index(f'modules["{name}"] = ') < text.index(f'= modules["{name}"];')
