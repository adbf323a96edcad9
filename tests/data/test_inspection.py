"""What is found out of every file, and which files are the same."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from openmae.data.opening import open_data
from openmae.data.survey.duplicates import same_files
from openmae.data.survey.inspection import ROW, inspect
from tests.images import write_images


def test_rows_do_not_depend_on_workers(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    (tmp_path / "class0/empty.jpg").touch()
    (tmp_path / "class0/page.jpg").write_bytes(b"<html>")
    source = open_data(str(tmp_path)).all
    alone, three = (inspect(source, workers) for workers in (0, 3))
    assert alone.rows.tobytes() == three.rows.tobytes()
    assert (alone.kinds, alone.reasons) == (three.kinds, three.reasons)
    assert len(alone.reasons) == 2


def test_a_file_costs_few_bytes() -> None:
    assert ROW.itemsize <= 64  # 10 million files in 640 MB


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=30))
def test_same_files_are_those_of_the_same_digest(files: list[tuple[int, int, bool]]) -> None:
    digests = np.array([bytes([left] * 8 + [right] * 8) for left, right, _ in files], "V16")
    expected: dict[tuple[int, int], list[int]] = {}
    for place, (left, right, good) in enumerate(files):
        if good:
            expected.setdefault((left, right), []).append(place)
    members, starts = same_files(digests, np.array([good for *_, good in files], bool))
    groups = [group.tolist() for group in np.split(members, starts)[1:]]
    assert sorted(groups) == sorted(group for group in expected.values() if len(group) > 1)
