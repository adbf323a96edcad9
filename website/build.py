"""The pages of the site, from the repository's own: `python website/build.py FOLDER [DEMO]` writes FOLDER/docs and
FOLDER/zensical.toml, of which `zensical build` makes the site (`make site`). DEMO: what `openmae demo --to-file` wrote,
which the home page then shows; where it is not there, the site is without.

README.md is its home, docs/ its how-tos; the reference is made of every command's --help and of the docstrings of the
Python calls; code that a page links to becomes a page. Whatever link leads nowhere ends it with an error.
"""

import contextlib
import inspect
import io
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ["COLUMNS"] = "80"  # of --help, read as tyro is imported

import openmae  # noqa: E402
from openmae.cli import COMMANDS, main  # noqa: E402

LINK = re.compile(r"(\]\(|src=\")([^)\s\"]+)(\)|\")")
NAMED = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".sbatch": "bash", ".ipynb": "json"}
SHOWN = """## See it

<iframe src="try.html" title="A model fills in what you hide" loading="lazy" width="100%" height="1000"></iframe>

*A small model, trained for minutes as by `make quickstart`: it runs in your browser, and no image leaves it. Of yours,
[`openmae demo RUN --to-file demo.html`](demo.md) makes such a file.*

"""
SECTIONS = {  # pages of docs/ by where the site has them; a page that is named nowhere is an error
    "Start": ("method", "faq"),
    "Tutorials": ("for-microscopy", "for-radiology", "for-satellites", "for-factories", "for-research"),
    "Pre-train": (
        "data",
        "pretrain",
        "runs",
        "going-on",
        "plan",
        "pack",
        "logging",
        "report",
        "speed",
        "scale",
        "reliability",
        "doctor",
    ),
    "Use": (
        "demo",
        "features",
        "embed",
        "finetune",
        "segment",
        "detect",
        "labels",
        "evaluate",
        "predict",
        "weights",
        "python",
    ),
    "Was it worth it": ("adapt", "compare", "ablate", "bench"),
}


def build(folder: Path, demo: Path | None = None) -> None:
    """Writes it all, with the demo where there is one. Raises ValueError for a link that leads nowhere, or a page that
    no section has."""
    missing = {file.stem for file in (ROOT / "docs").glob("*.md")} - {"log"} - {*sum(SECTIONS.values(), ())}
    if missing:
        raise ValueError(f"no section of the site has docs/{', docs/'.join(sorted(missing))}.md")
    places = {ROOT / "README.md": "index.md", ROOT / "benchmarks/RESULTS.md": "results.md"}
    places |= {file: file.name for file in (ROOT / "docs").glob("*.md")}
    places |= {
        ROOT / name: f"{Path(name).stem.lower()}.md" for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    }
    places[ROOT / "examples/README.md"] = "examples.md"
    written, left = dict(places), [*places]
    while left:  # pages, and then what they link to
        file = left.pop()
        text = file.read_text() if file.suffix == ".md" else code_page(file)
        write(folder, written[file], rewritten(text, file, written, left, folder))
    for name in COMMANDS:
        write(folder, f"commands/{name}.md", command_page(name))
    write(
        folder,
        "commands/index.md",
        "# Commands\n\n" + "".join(f"- [openmae {name}]({name}.md): {said[2]}\n" for name, said in COMMANDS.items()),
    )
    write(folder, "calls.md", python_page())
    (folder / "zensical.toml").write_text(configuration())
    if demo is not None and demo.is_file():
        show(folder, demo)
    else:
        print("The home page is without the demo: there is no file of it")


def show(folder: Path, demo: Path) -> None:
    """Puts the demo on the home page, before it says what to type."""
    home, mark = folder / "docs/index.md", "## Try it\n"
    text = home.read_text()
    if text.count(mark) != 1:
        raise ValueError("README.md has no place for the demo: it stands before 'Try it'")
    home.write_text(text.replace(mark, SHOWN + mark))
    (folder / "docs/try.html").write_bytes(demo.read_bytes())


def rewritten(text: str, file: Path, written: dict[Path, str], left: list[Path], folder: Path) -> str:
    """The text of a page with its links as the site has them. Adds what it links to, and no page has yet."""

    def link(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not place:
            return found[0]
        linked = (file.parent / place).resolve()
        if not linked.is_file():
            raise ValueError(f"{file.relative_to(ROOT)} links to {target}, which is not there")
        if linked not in written:
            if linked.suffix in NAMED or not linked.suffix:
                written[linked] = f"code/{'-'.join(linked.relative_to(ROOT).parts)}.md"
                left.append(linked)
            else:  # a picture
                written[linked] = f"pictures/{linked.name}"
                (folder / "docs/pictures").mkdir(parents=True, exist_ok=True)
                (folder / "docs/pictures" / linked.name).write_bytes(linked.read_bytes())
        relative = os.path.relpath(written[linked], Path(written[file]).parent)
        return f"{before}{relative}{'#' + anchor if anchor else ''}{after}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)  # code stays as it is
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def code_page(file: Path) -> str:
    """A file of code as a page."""
    fence = "````"
    return f"# {file.relative_to(ROOT)}\n\n{fence}{NAMED.get(file.suffix, 'text')}\n{file.read_text()}\n{fence}\n"


def command_page(name: str) -> str:
    """What `openmae NAME --help` prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return f"# openmae {name}\n\n{COMMANDS[name][2]}\n\n```text\n{said.getvalue().strip()}\n```\n"


def python_page() -> str:
    """Every public name with its docstring; settings of a call are those of its command."""
    parts = ["# Python calls", "What `import openmae` has. The settings of a call are its command's, as keywords."]
    for name in sorted(openmae.__all__, key=lambda one: (one[0].isupper(), one)):
        one = getattr(openmae, name)
        first = list(inspect.signature(one).parameters)[:3] if callable(one) else []
        parts += [f"## openmae.{name}", f"`openmae.{name}({', '.join([*first, '...'])})`"]
        parts.append(f"```text\n{inspect.getdoc(one) or ''}\n```")
    return "\n\n".join(parts) + "\n"


def write(folder: Path, place: str, text: str) -> None:
    """A page of FOLDER/docs."""
    file = folder / "docs" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def configuration() -> str:
    """zensical.toml: one file, nothing from other hosts, light and dark."""

    def pages(names: tuple[str, ...]) -> str:
        return ", ".join(f'"{name}.md"' for name in names)

    sections = [f'{{"{title}" = [{pages(names)}]}}' for title, names in SECTIONS.items()]
    commands = ", ".join(f'{{"{name}" = "commands/{name}.md"}}' for name in COMMANDS)
    nav = [
        '{"Home" = "index.md"}',
        *sections,
        f'{{"Reference" = [{{"Commands" = ["commands/index.md", {commands}]}}, "calls.md"]}}',
    ]
    nav.append('{"Results" = ["results.md", "log.md"]}')
    nav.append('{"Project" = ["examples.md", "contributing.md", "security.md", "changelog.md"]}')
    return f"""[project]
site_name = "openmae"
site_description = "Pre-train vision transformers on your own unlabelled images"
docs_dir = "docs"
site_dir = "site"
use_directory_urls = false
nav = [
  {("," + chr(10) + "  ").join(nav)},
]

[project.theme]
font = false
features = ["navigation.tabs", "navigation.top", "content.code.copy", "search.highlight", "toc.follow"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle.icon = "lucide/sun"
toggle.name = "Dark style"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle.icon = "lucide/moon"
toggle.name = "Light style"
"""


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:3]))
