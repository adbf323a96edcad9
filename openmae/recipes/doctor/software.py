"""Python and the packages, beside what openmae asks for."""

import importlib
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from openmae.recipes.doctor.diagnosis import Diagnosis

_US = "openmae"
_OF_DEVELOPERS = "dev"  # the extra that no user needs
_IMPORTED = ("numpy", "PIL", "simplejpeg", "torch", "torchvision")
"""Compiled against each other: versions may suit openmae and not one another."""


def software() -> list[Diagnosis]:
    """Python, what must be installed, what may be."""
    try:
        about = metadata.metadata(_US)
    except metadata.PackageNotFoundError:
        said = "openmae is not installed, so nothing says which packages it asks for"
        return [Diagnosis("packages", "warn", said, "pip install -e . in its clone"), *_imports()]
    needed = [Requirement(text) for text in metadata.requires(_US) or []]
    extras = [name for name in about.get_all("Provides-Extra") or [] if name != _OF_DEVELOPERS]
    return [_python(str(about["Requires-Python"])), *_packages(needed), *_imports(), *_extras(needed, extras)]


def _python(wanted: str) -> Diagnosis:
    version = platform.python_version()
    if version not in SpecifierSet(wanted, prereleases=True):
        return Diagnosis(
            "python", "bad", f"Python {version}; openmae asks for {wanted}", "make an environment with that"
        )
    return Diagnosis("python", "ok", f"Python {version} on {platform.system()} {platform.machine()}")


def _packages(needed: list[Requirement]) -> list[Diagnosis]:
    always = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    complaints = {one: complaint for one in always if (complaint := _complaint(one))}
    if complaints:
        remedy = f"pip install --upgrade {_quoted(map(_bare, complaints))}"
        return [Diagnosis("packages", "bad", "; ".join(complaints.values()), remedy)]
    named = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "numpy"))
    return [Diagnosis("packages", "ok", f"openmae {metadata.version(_US)}, {named}; all {len(always)} as it asks")]


def _complaint(one: Requirement) -> str:
    """What is wrong with what is installed; empty where nothing is."""
    try:
        version = metadata.version(one.name)
    except metadata.PackageNotFoundError:
        return f"{one.name} is not installed"
    return "" if one.specifier.contains(version, prereleases=True) else f"{one.name} is {version}, not {one.specifier}"


def _bare(one: Requirement) -> str:
    return f"{one.name}{one.specifier}"


def _imports() -> list[Diagnosis]:
    found = []
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            remedy = "install torch and torchvision anew, as https://pytorch.org says for this machine"
            if not name.startswith("torch"):
                remedy = f"pip install --force-reinstall {'pillow' if name == 'PIL' else name}"
            said = f"{name} cannot be imported ({type(error).__name__}: {first})"
            found.append(Diagnosis("packages", "bad", said, remedy))
    return found


def _extras(needed: list[Requirement], names: list[str]) -> Iterator[Diagnosis]:
    """A line on those that are not installed, which is nothing to mend, and one on those that are too old."""
    absent: dict[str, list[str]] = {}
    old: dict[str, dict[str, str]] = {}
    for name in names:
        complaints = {_bare(one): complaint for one in _of_extra(needed, name) if (complaint := _complaint(one))}
        if any("not installed" in complaint for complaint in complaints.values()):
            absent[name] = [*complaints]
        elif complaints:
            old[name] = complaints
    there = ", ".join(name for name in names if name not in absent) or "none"
    if absent:
        packages = dict.fromkeys(package for found in absent.values() for package in found)
        remedy = f"where your files need them: pip install {_quoted(packages)}"
        yield Diagnosis("extras", "ok", f"installed: {there}; not installed: {', '.join(absent)}", remedy)
    else:
        yield Diagnosis("extras", "ok", f"installed: {there}")
    for name, complaints in old.items():
        said = f"of {name}, {'; '.join(complaints.values())}"
        yield Diagnosis("extras", "warn", said, f"pip install --upgrade {_quoted(complaints)}")


def _quoted(requirements: Iterable[str]) -> str:
    return " ".join(f"'{one}'" for one in requirements)


def _of_extra(needed: list[Requirement], name: str) -> list[Requirement]:
    """What an extra asks for, through the extras of ours that it names."""
    found: list[Requirement] = []
    for one in needed:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}) and one.marker.evaluate({"extra": name}):
            found += (
                [two for inner in sorted(one.extras) for two in _of_extra(needed, inner)] if one.name == _US else [one]
            )
    return found
