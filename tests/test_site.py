"""The pages of the site: all of docs/, every command and call, and no link that leads nowhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import openmae
from openmae.cli import COMMANDS
from tests.test_docs import ROOT


def test_all_pages_are_made_and_all_links_lead_somewhere(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "website/build.py", tmp_path], check=True, cwd=ROOT)
    docs = tmp_path / "docs"
    pages = {str(page.relative_to(docs)): page.read_text() for page in docs.rglob("*.md")}
    assert {file.name for file in (ROOT / "docs").glob("*.md")} <= pages.keys()
    assert {f"commands/{name}.md" for name in COMMANDS} <= pages.keys()
    assert "--mask-ratio FLOAT" in pages["commands/pretrain.md"]
    for name in openmae.__all__:
        assert f"## openmae.{name}" in pages["calls.md"]
    for place, text in pages.items():
        bare = re.sub(r"^(`{3,4}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s#]+)", bare):
            assert re.match("[a-z]+:", target) or (docs / place).parent.joinpath(target).is_file(), f"{place}: {target}"
    listed = re.findall(
        r'"([^"]+\.md)"', str(tomllib.loads((tmp_path / "zensical.toml").read_text())).replace("'", '"')
    )
    assert {*listed} == {place for place in pages if not place.startswith("code/")}


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'website'); import build, pathlib; "
        "build.rewritten('see [it](lost.md)', build.ROOT / 'README.md', {}, [], pathlib.Path('.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "README.md links to lost.md, which is not there" in done.stderr


def test_the_home_page_shows_the_demo_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text((ROOT / "README.md").read_text())
    (tmp_path / "demo.html").write_text("<p>demo</p>")
    code = "import sys; sys.path.insert(0, 'website'); import build, pathlib; f, d = map(pathlib.Path, sys.argv[1:])"
    words = [sys.executable, "-c", f"{code}; build.show(f, d)", tmp_path, tmp_path / "demo.html"]
    subprocess.run(words, check=True, cwd=ROOT)
    home = (tmp_path / "docs/index.md").read_text()
    assert home.index('<iframe src="try.html"') < home.index("## Try it")
    assert (tmp_path / "docs/try.html").read_text() == "<p>demo</p>"
    assert "demo.md" in home
