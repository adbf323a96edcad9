"""Which axis of an array holds the channels, and whether pages are channels or frames: judged by their lengths."""

from collections import Counter
from collections.abc import Mapping

from openmae.data.formats.reading import Layout, Pages
from openmae.errors import UserError

Axes = tuple[int, int, int]
Stack = tuple[int, int, int]
_MOST_CHANNELS = 32  # of an axis that is taken for channels because it is short
_SHORTER = 2  # times, at least, than both others


def layout_of(shapes: Mapping[Axes, int], in_chans: int | None) -> tuple[Layout, str] | None:
    """The layout that fits arrays of these shapes, so many of each, and why; None where nothing tells.

    in_chans: of the model, or as asked for, which decides where it is the length of one end alone.
    Raises UserError where some arrays are of the one layout and some of the other.
    """
    votes: dict[Layout, Counter[Axes]] = {"hwc": Counter(), "chw": Counter()}
    for shape, count in shapes.items():
        if vote := _vote(shape, in_chans):
            votes[vote][shape] += count
    total = sum(shapes.values())
    if votes["hwc"] and votes["chw"]:
        said = " and ".join(
            f"{found.total():,} (channels {'first' if word == 'chw' else 'last'}, as in {_text(found)})"
            for word, found in votes.items()
        )
        raise UserError(
            f"of {total:,} arrays some have their channels first and some last: {said}",
            "keep them apart, or say by `layout` how all of them are",
        )
    for word, found in votes.items():
        if found:
            end = "first" if word == "chw" else "last"
            many = f"{found.total():,} of {total:,} arrays"
            return word, f"the {end} axis of {many} is that of their channels by its length: {_text(found)}"
    return _by_constancy(shapes)


def _vote(shape: Axes, in_chans: int | None) -> Layout | None:
    first, middle, last = shape
    if in_chans is not None and (first == in_chans) != (last == in_chans):
        return "chw" if first == in_chans else "hwc"
    is_short = [_is_short(first, middle, last), _is_short(last, first, middle)]
    if is_short[0] != is_short[1]:
        return "chw" if is_short[0] else "hwc"
    if not any(is_short) and (middle == last) != (first == middle):  # images are often square
        return "chw" if middle == last else "hwc"
    return None


def _by_constancy(shapes: Mapping[Axes, int]) -> tuple[Layout, str] | None:
    """Sizes vary from image to image where the number of channels does not."""
    firsts, lasts = ({shape[end] for shape in shapes} for end in (0, -1))
    if (len(firsts) == 1) == (len(lasts) == 1):
        return None
    word: Layout = "chw" if len(firsts) == 1 else "hwc"
    end = "first" if word == "chw" else "last"
    return word, f"the {end} axis alone is equally long in all arrays: {_text(Counter(shapes))}"


def pages_of(stacks: Mapping[Stack, int], files: int, in_chans: int | None) -> tuple[Pages, str] | None:
    """What pages of (pages, height, width) are in so many files of each, of `files` in all, and why; None where
    nothing tells."""
    numbers, widths = sorted({stack[0] for stack in stacks}), {stack[2] for stack in stacks}
    if in_chans is not None and in_chans > 1:
        if numbers == [in_chans]:
            return "channels", f"each file has as many pages as `in_chans={in_chans}`"
        if widths == {in_chans}:
            return "rows", f"each page is as wide as `in_chans={in_chans}`"
    if in_chans is not None and in_chans in (1, 3):
        return "frames", f"`in_chans={in_chans}` is of one page"
    if all(_is_short(width, number, height) for number, height, width in stacks):
        return "rows", f"pages of {_text(Counter(stacks))} are rows of images, the channels their width"
    if len(numbers) > 1:
        return "frames", f"files have different numbers of pages, {numbers[0]} to {numbers[-1]}"
    if sum(stacks.values()) < files:
        return (
            "frames",
            f"{files - sum(stacks.values()):,} of {files:,} files have one page, or say what their pages are",
        )
    return None


def _is_short(axis: int, *others: int) -> bool:
    return axis <= _MOST_CHANNELS and axis * _SHORTER <= min(others)


def _text(shapes: Counter[tuple[int, int, int]]) -> str:
    listed = [" x ".join(map(str, shape)) for shape, _ in shapes.most_common(2)]
    return ", ".join(listed) + (", ..." if len(shapes) > 2 else "")
