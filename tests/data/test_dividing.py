"""Train and val have no group and no file in common, whoever divides them."""

import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import parquet
from sklearn.model_selection import StratifiedGroupKFold

from openmae.data.dividing import check_apart, notes_on_copies
from openmae.data.fewer_labels import fewer_labels
from openmae.data.held_out import split_for
from openmae.data.opening import Data, open_data
from openmae.data.sources import identity
from openmae.data.sources.groups import group_numbers, groups_of
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source, Without
from openmae.data.tasks import Answers, Task
from openmae.errors import UserError
from openmae.evaluate.probe import folds_of
from openmae.own import Own
from openmae.recipes.pretrain.job import sources_of
from tests.commands import Run, finetune, pretrain, refused
from tests.images import picture


def names_of(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / name)
    return root


def write_table(folder: Path, rows: Sequence[tuple[str, ...]], header: str = "path,label,patient") -> Path:
    (folder / "t.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return folder / "t.csv"


def patients(count: int = 40, each: int = 3) -> list[tuple[str, ...]]:
    """A patient has images of one class, mostly."""
    return [
        (
            f"p{patient}_{i}.png",
            "sick" if (patient + (i == each - 1 and patient % 7 == 0)) % 3 == 0 else "well",
            f"p{patient}",
        )
        for patient in range(count)
        for i in range(each)
    ]


# ---------------------------------------------------------------- what a group is


@pytest.mark.parametrize(
    ("by", "group"),
    [
        ("folder", "p7"),
        ("folder:1", "cat"),
        ("folder:2", "p7"),
        (r"name:scan_\d+", "scan_3"),
        (r"name:scan_(\d+)", "3"),
        (r"name:(p\d+)/.*_s(\d)", "p7/2"),
    ],
)
def test_groups_by_the_path(by: str, group: str, tmp_path: Path) -> None:
    source = open_data(str(write(tmp_path, "cat/p7/scan_3_s2.png"))).all
    assert groups_of(source, Selection(group_by=by)) == [group]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("folder:3", "lies in 2 folders"),
        ("folder:0", "`group_by` is"),
        ("folders", "`group_by` is"),
        ("name:", "`group_by` is"),
        ("name:(", "no regular expression"),
        ("name:x+", r"finds no 'x\+' in cat/p7/1.png"),
        ("name:z*", r"finds no 'z\*'"),
    ],
)
def test_groups_that_are_none(by: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        groups_of(open_data(str(write(tmp_path, "cat/p7/1.png"))).all, Selection(group_by=by))


def test_groups_of_a_column(tmp_path: Path) -> None:
    rows = [("a.png", "1.0", "train"), ("b.png", "2.0", "val"), ("c.png", "1.0", "train")]
    file = write_table(tmp_path, rows, "path,patient,split")
    selection = Selection(group_column="patient")
    data = open_data(str(file), selection)
    assert groups_of(data.all, selection) == ["1.0", "2.0", "1.0"]
    assert groups_of(data.train, selection) == ["1.0", "1.0"]
    columns = {"path": ["a.png", "b.png"], "slide": [7, 8]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert groups_of(open_data(str(tmp_path / "t.parquet")).all, Selection(group_column="slide")) == ["7", "8"]
    images = {"image": [b"1", b"2"], "slide": ["a", "b"]}
    parquet.write_table(pyarrow.table(images), tmp_path / "i.parquet")
    assert groups_of(open_data(str(tmp_path / "i.parquet")).all, Selection(group_column="slide")) == ["a", "b"]
    for name in ("t.csv", "t.parquet", "i.parquet"):
        with pytest.raises(UserError, match=r"column.* 'doctor'.*mend `group_column`"):
            groups_of(open_data(str(tmp_path / name)).all, Selection(group_column="doctor"))
    with pytest.raises(UserError, match="is no table"):
        groups_of(open_data(str(write(tmp_path / "f", "1.png"))).all, selection)
    with pytest.raises(UserError, match="both say"):
        groups_of(data.all, Selection(group_column="patient", group_by="folder"))
    with pytest.raises(UserError, match=r"1 of 2 rows of .* have no 'patient' \(b.png\)"):
        groups_of(open_data(str(write_table(tmp_path, [("a.png", "1"), ("b.png", "")], "path,patient"))).all, selection)


# ---------------------------------------------------------------- dividing by groups


def divided(file: Path, task: Task | None = None, seed: int = 0, **asked: str) -> tuple[Source, Source]:
    return split_for(open_data(str(file), Selection(**asked)), task, seed)[1:]  # type: ignore[arg-type]


def test_a_fifth_is_held_out_by_groups_as_well_as_sklearn_does_it(tmp_path: Path) -> None:
    rows = patients()
    file = write_table(tmp_path, rows)
    labels, groups = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    for seed in range(5):
        train, val = divided(file, seed=seed, group_column="patient")
        of = {row[0]: row for row in rows}
        learnt, judged = ({of[name][2] for name in names_of(part)} for part in (train, val))
        assert not learnt & judged
        assert sorted([*names_of(train), *names_of(val)]) == sorted(of)
        counts = Counter(of[name][1] for name in names_of(val))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
        theirs = [Counter(labels[fold].tolist()) for _, fold in folds]
        for label in ("sick", "well"):
            total = int((labels == label).sum())
            worst = max(abs(fold[label] / total - 0.2) for fold in theirs)
            assert abs(counts[label] / total - 0.2) <= max(worst, 0.1)
    assert names_of(divided(file, seed=1, group_column="patient")[1]) == names_of(
        divided(file, seed=1, group_column="patient")[1]
    )
    assert names_of(divided(file, seed=1, group_column="patient")[1]) != names_of(
        divided(file, seed=2, group_column="patient")[1]
    )
    assert {*names_of(divided(file)[1])} & {
        *names_of(divided(file, group_by=r"name:p\d+_")[0])
    }  # without, they are not


@settings(deadline=None)
@given(st.data())
def test_whole_groups_with_some_of_each_class_in_both(data: st.DataObject) -> None:
    classes = data.draw(st.integers(1, 4))
    sizes = data.draw(
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(1, 9)), min_size=2 * classes, max_size=40)
    )
    sizes += [(label, 1) for label in range(classes) for _ in range(2)]  # each class has two groups at least
    groups = np.repeat(np.arange(len(sizes)), [count for _, count in sizes])
    labels = np.repeat([label for label, _ in sizes], [count for _, count in sizes])
    from openmae.data.dividing import _whole_groups

    chosen = _whole_groups(groups, labels, np.random.default_rng(0).permutation(len(sizes)))
    is_val = np.isin(groups, chosen)
    for label in range(classes):
        own = is_val[labels == label]
        assert own.any()
        assert not own.all()
        largest = max(count for of, count in sizes if of == label)
        assert abs(own.sum() - len(own) / 5) <= max(largest, 1)


@pytest.mark.parametrize(("task", "labels"), [("regression", "0.5"), ("multi-label", "a;b")])
def test_numbers_and_several_labels_are_divided_by_groups(task: Task, labels: str, tmp_path: Path) -> None:
    rows = [(f"{i}.png", labels if i % 2 else labels[0], f"g{i % 10}") for i in range(50)]
    train, val = divided(write_table(tmp_path, rows), task, group_column="patient")
    learnt, judged = ({f"g{int(name[:-4]) % 10}" for name in names_of(part)} for part in (train, val))
    assert not learnt & judged
    assert len(judged) == 2


def test_classes_that_are_groups_cannot_be_divided(tmp_path: Path) -> None:
    file = write(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)))
    with pytest.raises(
        UserError, match=r"class 'cat' of .* lie in one group, so they cannot be both learnt and judged"
    ):
        divided(file, group_by="folder")


def test_a_hand_made_split_that_divides_a_group_is_refused(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "ab"[i % 2], f"p{i // 2}", "train" if i < 9 else "val") for i in range(16)]
    file = write_table(tmp_path, rows, "path,label,patient,split")
    with pytest.raises(UserError, match=r"1 group is both in train and in val of .* \(p4\), so val would judge"):
        divided(file, group_column="patient")
    assert len(divided(file)[1]) == 7
    assert len(divided(file, group_column="patient", splits="none")[0]) > 0


def test_folds_of_the_probe_are_of_whole_groups() -> None:
    groups, labels = np.arange(200) // 5, np.arange(200) // 100
    folds = folds_of(Answers("classification", ("a", "b"), labels, groups), seed=0)
    assert sum(len(held_out) for _, held_out in folds) == 200
    for rest, held_out in folds:
        assert not {*groups[rest]} & {*groups[held_out]}
        assert {*labels[rest]} == {0, 1}
    alone = np.where(labels == 1, 0, groups + 1)  # all of one class are of one group, which no fold may lack
    assert all(
        {*labels[rest]} == {0, 1} for rest, _ in folds_of(Answers("classification", ("a", "b"), labels, alone), 0)
    )


def test_few_labels_are_of_few_groups(tmp_path: Path) -> None:
    source = open_data(
        str(write_table(tmp_path, [(f"{i}.png", "ab"[i // 200], f"p{i // 10}") for i in range(400)]))
    ).all
    groups = group_numbers(source, Selection(group_column="patient"))
    for wanted, count in (("10%", 20), ("25-per-class", 25)):
        few = fewer_labels(source, wanted, "classification", 0, groups)
        assert groups is not None
        own = groups[few.indices]  # type: ignore[attr-defined]
        assert Counter(few.labels.tolist()) == {0: count, 1: count}
        assert len({*own}) == 2 * -(-count // 10)  # 20 or 25 images of 2 or 3 patients of 10 each
    assert len(fewer_labels(source, "10%", "regression", 0, groups)) == 40


def test_pictures_of_a_pre_training_are_of_groups_that_it_does_not_learn(tmp_path: Path) -> None:
    file = write_table(tmp_path, [(f"{i}.png", "a", f"p{i // 3}") for i in range(60)])
    train, val, shown = sources_of(open_data(str(file), Selection(group_column="patient")), 0)
    assert val is None
    learnt, pictured = ({int(name[:-4]) // 3 for name in names_of(part)} for part in (train, shown))
    assert not learnt & pictured
    assert len(train) + 3 * len(pictured) == 60
    assert len(shown) == 6
    one = write_table(tmp_path, [(f"{i}.png", "a", "p0") for i in range(60)])
    train, _, shown = sources_of(open_data(str(one), Selection(group_column="patient")), 0)
    assert (len(train), len(shown)) == (60, 6)


class Billion:
    """A data set of 10^9 images, each a grey of its own."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.full((4, 4), index % 251, np.uint8)


def test_pictures_are_set_aside_of_a_billion_images_without_a_list_of_all() -> None:
    tracemalloc.start()
    try:
        whole = open_data(Own.of(Billion()))
        train, val, shown = sources_of(whole, 3)
        assert (len(train), val, len(shown)) == (10**9 - 8, None, 8)
        aside = {shown.name(index) for index in range(8)}
        assert len(aside) == 8
        assert not aside & {train.name(at) for at in range(0, 10**9 - 8, 10**6)}
        assert train.name(len(train) - 1) == whole.train.name(10**9 - 1)
        assert train.fingerprint != sources_of(whole, 4)[0].fingerprint
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=n - 1))))
def test_all_but_some_are_those_of_a_list(drawn: tuple[int, set[int]]) -> None:
    count, aside = drawn
    whole = open_data(Own.of([(np.full((4, 4), i, np.uint8), i % 2) for i in range(count)])).train
    left = np.array(sorted(aside, reverse=True), np.int64)
    computed, listed = Without(whole, left), whole.without(left)
    assert (len(computed), names_of(computed)) == (len(listed), names_of(listed))
    every = range(len(listed))
    assert computed.read_many(every) == listed.read_many(every) == [listed.read(index) for index in every]
    assert [*computed.read_each(every)] == [*listed.read_each(every)]
    assert computed.labels.tolist() == listed.labels.tolist()
    assert computed.read(-1) == listed.read(-1)
    with pytest.raises(IndexError):
        computed.read(len(listed))


# ---------------------------------------------------------------- one file


def in_both(tmp_path: Path, other: str) -> Data:
    """A table whose val has the first file of train, called otherwise."""
    write(tmp_path, *(f"img/{i}.png" for i in range(8)))
    (tmp_path / "hard.png").hardlink_to(tmp_path / "img/0.png")
    (tmp_path / "soft.png").symlink_to(tmp_path / "img/0.png")
    rows = [(f"img/{i}.png", "ab"[i % 2], "train" if i < 4 else "val") for i in range(8)] + [(other, "a", "val")]
    return open_data(str(write_table(tmp_path, rows, "path,label,split")))


@pytest.mark.parametrize(
    "other", ["img/0.png", "./img/0.png", "img/../img/0.png", "img//0.png", "hard.png", "soft.png", "{}"]
)
def test_a_file_is_known_whatever_it_is_called(other: str, tmp_path: Path) -> None:
    data = in_both(tmp_path, other.format(tmp_path / "img/0.png"))
    with pytest.raises(UserError, match=r"learnt by heart: keep one of its rows"):
        split_for(data, None, 0)


def test_the_same_path_is_one_file_where_there_is_none(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "ab"[i % 2], "train" if i < 4 else "val") for i in range(8)] + [("./0.png", "a", "val")]
    with pytest.raises(UserError, match="learnt by heart"):
        split_for(open_data(str(write_table(tmp_path, rows, "path,label,split"))), None, 0)


def test_of_very_many_files_the_path_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_MOST_STATS", 3)
    with pytest.raises(UserError, match="learnt by heart"):
        split_for(in_both(tmp_path / "a", "./img/0.png"), None, 0)
    split_for(in_both(tmp_path / "b", "soft.png"), None, 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="learnt by heart"):  # a table that is given from here, and has a whole path
        split_for(in_both(Path("c"), str(tmp_path / "c/img/0.png")), None, 0)


def test_a_link_from_val_into_train(tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(3)))
    (tmp_path / "val/a/again.png").symlink_to(tmp_path / "train/b/2.png")
    with pytest.raises(UserError, match=r"b/2.png in train and a/again.png in val of .* are one file"):
        split_for(open_data(str(tmp_path)), None, 0)


def test_links_stay_together_where_a_fifth_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{i}.png" for name in "ab" for i in range(20)))
    for i in range(20):
        os.link(tmp_path / f"a/{i}.png", tmp_path / f"a/{i}_again.png")
    for seed in range(3):
        train, val = divided(tmp_path, seed=seed)
        learnt, judged = ({name.replace("_again", "") for name in names_of(part)} for part in (train, val))
        assert not learnt & judged


@pytest.mark.parametrize("kind", ["folder", "table", "array"])
def test_images_of_val_that_are_in_train_are_said(kind: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(3)))
    copy = tmp_path / "val/a/copy.png"
    copy.write_bytes((tmp_path / "train/a/1.png").read_bytes())
    place = tmp_path
    if kind == "table":
        rows = [
            (str(file.relative_to(tmp_path)), file.parts[-2], file.parts[-3])
            for file in sorted(tmp_path.rglob("*.png"))
        ]
        place = write_table(tmp_path, rows, "path,label,split")
    elif kind == "array":
        images = np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8)
        images[9] = images[2]
        place = tmp_path / "a.npz"
        np.savez(place, train_images=images[:6], val_images=images[6:], train_labels=[0, 1] * 3, val_labels=[0, 1] * 3)
    _, train, val = split_for(open_data(str(place)), None, 0)
    notes = notes_on_copies(train, val)
    expected = {
        "folder": "a/1.png = a/copy.png",
        "table": "train/a/1.png = val/a/copy.png",
        "array": "a.npz/train_images#2 = a.npz/val_images#3",
    }
    assert [note.what for note in notes] == [f"1 image of val is in train too, byte for byte ({expected[kind]})"]
    assert notes[0].is_warning


def test_commands_keep_groups_apart(tmp_path: Path, run: Run) -> None:
    rows = [(f"{i}.png", "ab"[i % 2], f"p{i // 4}") for i in range(40)]
    write(tmp_path, *(row[0] for row in rows))
    file = write_table(tmp_path, rows)
    asked = ["--group-column", "patient"]
    assert run(*pretrain(file, tmp_path / "run", *asked))[0] == 0
    assert run(*finetune(tmp_path / "run", file, tmp_path / "ft", *asked))[0] == 0
    code, output, errors = run("evaluate", tmp_path / "ft", file, "--workers", 0)  # as it was divided then
    assert code == 0, errors
    assert "8 images of" in output
    refused(run("evaluate", tmp_path / "ft", file, "--workers", 0, "--group-by", "name:[0-9]"), "has changed since")
    _, again, _ = run("evaluate", tmp_path / "ft", file, "--workers", 0, "--include", "*.png")
    assert "8 images of" in again  # and what is asked beside does not undo it
    sets = [f"{file} (val)", f"{file} (val) [include *.png]"]  # nor are its figures those of all
    assert [*json.loads((tmp_path / "ft/results.json").read_bytes())] == sets
    assert run("knn", tmp_path / "run", file, "--workers", 0, "--no-baselines")[0] == 0
    assert run("knn", tmp_path / "run", file, "--workers", 0, "--no-baselines", *asked)[0] == 0
    kept = json.loads((tmp_path / "run/evaluations.json").read_bytes())
    assert [entry["data"] for entry in kept] == [str(file), f"{file} [group column patient]"]
    divided_by_hand = [(*row, "train" if i < 30 else "val") for i, row in enumerate(rows)]
    file = write_table(tmp_path, divided_by_hand, "path,label,patient,split")
    for words in (
        pretrain(file, tmp_path / "run2"),
        finetune(tmp_path / "run", file, tmp_path / "ft2"),
        ["knn", str(tmp_path / "run"), str(file)],
        ["probe", str(tmp_path / "run"), str(file)],
        ["pack", str(file), str(tmp_path / "shards")],
    ):
        refused(run(*words, *asked), "1 group is both in train and in val of", "(p7)")
    undivided = write_table(tmp_path, rows)
    assert run("pack", undivided, tmp_path / "packed", "--workers", 0, *asked)[0] == 0
    _, train, val = split_for(open_data(str(tmp_path / "packed")), None, 0)  # which need not be told again
    learnt, judged = ({int(name[:-4]) // 4 for name in names_of(part)} for part in (train, val))
    assert not learnt & judged
    few = fewer_labels(train, "20%", "classification", 0, group_numbers(train, Selection()))
    assert len({int(name[:-4]) // 4 for name in names_of(few)}) == -(-len(few) // 4)
    for others in ((), ("--group-by", "name:[0-9]")):
        refused(run("pack", undivided, tmp_path / "packed", "--workers", 0, *others), "other groups")
    assert run("pack", undivided, tmp_path / "alone", "--workers", 0)[0] == 0
    refused(run("pack", undivided, tmp_path / "alone", "--workers", 0, *asked), "other groups")
    file = write_table(tmp_path, divided_by_hand, "path,label,patient,split")
    code, output, _ = run("check", file, "--workers", 0, *asked)
    assert code == 2
    assert "1 group is both in train and in val of" in output


def test_check_apart_says_nothing_where_nothing_is_shared(tmp_path: Path) -> None:
    write(
        tmp_path, *(f"{split}/{name}{split}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(3))
    )
    data = open_data(str(tmp_path), Selection(group_by="folder"))
    check_apart(data, data.train, data.val)
