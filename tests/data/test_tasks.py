"""What labels say: classes, several labels, numbers; which images are held out; fewer labels."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from openmae.data.fewer_labels import fewer_labels
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.sources.arrays import ArraysInMemory
from openmae.data.sources.source import Source
from openmae.data.tasks import Task, answers, taken_for, task_of
from openmae.errors import UserError
from tests.images import picture, write_images


def table(folder: Path, labels: Sequence[object], splits: Sequence[str] | None = None) -> str:
    """A .csv of one image for each label."""
    for number in range(len(labels)):
        picture(0).save(folder / f"{number}.png")
    lines = [f"{i}.png,{label}" + (f",{splits[i]}" if splits else "") for i, label in enumerate(labels)]
    file = folder / "labels.csv"
    file.write_text("path,label" + (",split" if splits else "") + "\n" + "\n".join(lines) + "\n")
    return str(file)


def names_of(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["cat", "dog", "cat"], "classification"),
        ([0, 1, 2, 10], "classification"),
        (["1.0", "2.0"], "classification"),
        (["n01440764", "n01443537"], "classification"),
        (["3.5", "1", "7"], "regression"),
        (["-0.25", "1e3", "2"], "regression"),
        (["-1.0", "0.5", "-1"], "regression"),
        ([-1, 1, -1], "classification"),
        ([-1, 0, 1], "classification"),
        (["250.00", "401.9", "414.01"], "classification"),  # ICD-9
        (["001.1", "250.1"], "classification"),
        (["0.50", "1.25", "12.00"], "regression"),  # as a program prints two digits
        (["0.5", "1.0", "2.25"], "regression"),  # as pandas writes them
        (["1_5", "2_5"], "classification"),
        (["nan", "NA", "inf"], "classification"),
        (["cat;dog", "cat", "dog"], "multi-label"),
        (["Cardiomegaly|Emphysema", "No Finding"], "multi-label"),
    ],
)
def test_what_the_labels_say(tmp_path: Path, labels: list[object], task: str) -> None:
    assert task_of(open_data(table(tmp_path, labels)).all) == task


def test_numbers_are_taken_as_they_are_minus_one_too(tmp_path: Path) -> None:
    found = answers(open_data(table(tmp_path, ["-1", "0.5", "-1", "2"])).all, "regression")
    assert found.names == ("value",)
    assert found.values.tolist() == [[-1.0], [0.5], [-1.0], [2.0]]


@pytest.mark.parametrize("bad", ["nan", "inf", "1e39", "tall"])
def test_a_label_that_is_no_number(tmp_path: Path, bad: str) -> None:
    source = open_data(table(tmp_path, ["1.5", bad, "2"])).all
    with pytest.raises(UserError, match=rf"the label '{bad}' \(1.png\), which is no number to predict: mend it"):
        answers(source, "regression")


def test_an_empty_number_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of the 3 images of .* have no label, .* \(1.png\): label them"):
        answers(open_data(table(tmp_path, ["1.5", "", "2"])).all, "regression")


@given(st.lists(st.sets(st.sampled_from("abcde"), max_size=4), min_size=2, max_size=12))
def test_several_labels_are_scikit_learns(tmp_path_factory: pytest.TempPathFactory, given_: list[set[str]]) -> None:
    folder = tmp_path_factory.mktemp("labels")
    rows = [{"a", "b"}, {"c"}, *given_]
    found = answers(open_data(table(folder, [";".join(sorted(row)) for row in rows])).all, "multi-label")
    theirs = MultiLabelBinarizer()
    assert np.array_equal(found.values, theirs.fit_transform(rows))
    assert list(found.names) == theirs.classes_.tolist()


def test_an_array_with_a_column_a_class(tmp_path: Path) -> None:
    hot = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=hot)
    source = open_data(str(tmp_path / "x.npz")).all
    assert task_of(source) == "multi-label"
    assert np.array_equal(answers(source, "multi-label").values, hot)


def test_a_parquet_column_of_lists(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture(0).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    rows = [["cat", "dog"], [], ["dog"]]
    kept = pa.table({"image": [{"bytes": data, "path": f"{i}.png"} for i in range(3)], "labels": rows})
    pq.write_table(kept, tmp_path / "images.parquet")
    source = open_data(str(tmp_path / "images.parquet")).all
    assert task_of(source) == "multi-label"
    assert answers(source, "multi-label").values.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    source = open_data(table(tmp_path, ["dog", "cat", "dog"])).all
    assert answers(source, "classification", ["bird", "cat", "dog"]).values.tolist() == [2, 1, 2]
    with pytest.raises(UserError, match=r"not among the 2 known ones \(dog; known are cat, bird\)"):
        answers(source, "classification", ["cat", "bird"])
    found = answers(source, "classification", ["crane", "cat", "crane", "dog"])  # as ImageNet's names are
    assert (found.names, found.values.tolist()) == (("crane", "cat", "crane", "dog"), [3, 1, 3])
    for task in ("classification", "multi-label"):
        with pytest.raises(UserError, match="the label dog, which 2 outputs of the model have for a name"):
            answers(source, task, ["dog", "cat", "dog"])
    several = open_data(table(tmp_path, ["a;b", "c"])).all
    with pytest.raises(UserError, match=r"\(c; known are a, b\)"):
        answers(several, "multi-label", ["a", "b"])


def test_without_splits_a_fifth_of_each_class_is_held_out(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = str(write_images(tmp_path, 30, classes=3))
    assert not open_data(data).has_splits
    _, train, val = split_for(open_data(data), "classification", seed=1)
    assert sorted(names_of(train) + names_of(val)) == names_of(open_data(data).all)
    assert [int((val.labels == label).sum()) for label in range(3)] == [2, 2, 2]
    assert names_of(split_for(open_data(data), "classification", seed=1)[2]) == names_of(val)
    assert names_of(split_for(open_data(data), "classification", seed=2)[2]) != names_of(val)
    eight_each = split_for(
        open_data(str(write_images(tmp_path_factory.mktemp("eight"), 16))), "classification", seed=1
    )[1:]
    assert [len(part) for part in eight_each] == [14, 2]
    # The very same images, and the same fingerprint, as in version 0.1: runs go on and figures stay comparable.
    assert [name[-7:-4] for name in names_of(val)] == HELD_OUT
    sizes = [(name, (tmp_path / name).stat().st_size) for name in names_of(open_data(data).all)]
    lines = "".join(f"{name}\0{size}\n" for name, size in sizes)
    assert open_data(data).all.fingerprint == hashlib.sha256(lines.encode()).hexdigest()


HELD_OUT = ["006", "012", "001", "022", "008", "017"]


def test_a_fifth_is_held_out_where_there_are_no_classes(tmp_path: Path) -> None:
    data = table(tmp_path, [f"{i}.5" for i in range(20)])
    taken, train, val = split_for(open_data(data), None, seed=0)
    task = taken.task
    assert task == "regression"
    values = [answers(part, task).values[:, 0].tolist() for part in (train, val)]
    assert len(values[1]) == 4
    assert sorted(values[0] + values[1]) == [i + 0.5 for i in range(20)]
    assert answers(split_for(open_data(data), None, seed=1)[2], task).values[:, 0].tolist() != values[1]


def test_splits_of_the_table_are_kept(tmp_path: Path) -> None:
    data = table(tmp_path, ["1.5", "2", "3", "4.5"], ["train", "val", "train", "val"])
    taken, train, val = split_for(open_data(data), None, seed=0)
    assert (taken.task, len(train), len(val)) == ("regression", 2, 2)


def test_class_of_val_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "val", 4, classes=4)
    with pytest.raises(UserError, match="class2, class3"):
        split_for(open_data(str(tmp_path)), "classification", seed=0)
    rows = "a,1,train\nb,2,train\nc,3,val\nd,1,val\n"
    (tmp_path / "t.csv").write_text(f"path,label,split\n{rows}")
    with pytest.raises(UserError, match=r"^val has .*t\.csv lacks \(3\): mend .*, or, .* give `task='regression'`"):
        split_for(open_data(str(tmp_path / "t.csv")), "classification", seed=0)
    (tmp_path / "t.csv").write_text(f"path,label,split\n{rows.replace('3', '2').replace('d,1', 'd,2')}")
    with pytest.raises(UserError, match="one class"):
        split_for(open_data(str(tmp_path / "t.csv")), "classification", seed=0)


def test_a_class_in_val_alone(tmp_path: Path) -> None:
    data = table(tmp_path, ["a", "b", "c", "a"], ["train", "train", "val", "val"])
    with pytest.raises(UserError, match=r"has classes that .* lacks \(c\)"):
        split_for(open_data(data), None, seed=0)


def test_a_class_that_nothing_could_judge(tmp_path: Path) -> None:
    data = table(tmp_path, ["a", "b", "c", "a", "b"], ["train", "train", "train", "val", "val"])
    with pytest.raises(UserError, match="no image of the class c, so nothing could judge it: add some"):
        split_for(open_data(data), None, seed=0)


@pytest.mark.parametrize("splits", [None, ["train"] * 10 + ["val"] * 10])
def test_a_file_in_train_and_val(tmp_path: Path, splits: list[str] | None) -> None:
    """Val would judge what was learnt by heart, be it by a line written twice or by one row a label."""
    source = Path(table(tmp_path, ["a", "b"] * 10, splits))
    source.write_text(source.read_text().replace("19.png", "1.png") if splits else source.read_text())
    if not splits:
        lines = source.read_text().splitlines()
        source.write_text("\n".join([lines[0], *lines[1:], *lines[1:]]))
    with pytest.raises(UserError, match=r"has rows for \d+.png in train and in val"):
        split_for(open_data(str(source)), None, seed=0)


def test_whole_numbers_may_be_meant_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class '\d' .* one image: .*, or, .* numbers to predict, `task='regression'`"):
        split_for(open_data(table(tmp_path, range(8))), None, seed=0)


# ---------------------------------------------------------------- fewer labels


def counts(source: object) -> list[int]:
    return np.bincount(source.labels).tolist()  # type: ignore[attr-defined]


def test_a_share_and_a_number_of_each_class(tmp_path: Path) -> None:
    source = open_data(str(write_images(tmp_path / "images", 45, classes=2))).all  # 23 and 22
    assert counts(fewer_labels(source, "10%", "classification", 0)) == [2, 2]
    assert counts(fewer_labels(source, "1%", "classification", 0)) == [1, 1]
    assert counts(fewer_labels(source, "100%", "classification", 0)) == [23, 22]
    assert counts(fewer_labels(source, "7-per-class", "classification", 0)) == [7, 7]
    first, again, other = (fewer_labels(source, "7-per-class", "classification", seed) for seed in (0, 0, 1))
    names = [[part.name(i) for i in range(len(part))] for part in (first, again, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(("task", "labels"), [("regression", ["1.5", "2.5"]), ("multi-label", ["a;b", "b"])])
def test_a_share_of_images_that_have_no_class_of_their_own(tmp_path: Path, task: Task, labels: list[str]) -> None:
    """Each of these labels would be a class, of which at least one image is taken."""
    rows = []
    for number in range(40):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{labels[number % 2]}{number}\n")
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(rows))
    source = open_data(str(tmp_path / "labels.csv")).all
    assert len(fewer_labels(source, "10%", task, 0)) == 4
    assert len(fewer_labels(source, "7", task, 0)) == 7
    with pytest.raises(UserError, match=r"`labels='5-per-class'` is for images of one class each: give a share"):
        fewer_labels(source, "5-per-class", task, 0)
    few, more = (fewer_labels(source, share, task, 0) for share in ("5%", "50%"))
    assert {few.name(i) for i in range(len(few))} < {more.name(i) for i in range(len(more))}


def test_fewer_labels_are_among_more_of_them(tmp_path: Path) -> None:
    """So that the curves of 1% and 10% are of one draw."""
    source = open_data(str(write_images(tmp_path / "images", 40))).all
    few, more = (fewer_labels(source, wanted, "classification", 3) for wanted in ("4-per-class", "50%"))
    names = [{part.name(i) for i in range(len(part))} for part in (few, more)]
    assert names[0] < names[1]


@pytest.mark.parametrize("wanted", ["0%", "101%", "x%", "0-per-class", "-3-per-class", "0", "-12", "per-class", "nan%"])
def test_other_texts_are_refused(tmp_path: Path, wanted: str) -> None:
    source = open_data(str(write_images(tmp_path / "images", 4))).all
    with pytest.raises(
        UserError, match="give a share such as 10%, a number such as 20-per-class, or one in all such as 60"
    ):
        fewer_labels(source, wanted, "classification", 0)


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_number_in_all_is_of_each_class_in_proportion(sizes: list[int], part: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = np.zeros((len(labels), 2, 2, 1), np.uint8)
    source = ArraysInMemory(Path("a.npz"), "images", pixels, labels, tuple("abcde"[: len(sizes)]), "")
    wanted = len(sizes) + round(part * (len(labels) - len(sizes)))
    found = fewer_labels(source, str(wanted), "classification", seed)
    assert len(found) == wanted
    for have, of in zip(counts(found), sizes, strict=True):
        assert have >= 1
        assert have <= of * wanted / len(labels) + 1.5  # rounded, and one more where all have one at least
    if wanted < len(labels):
        more = fewer_labels(source, str(wanted + 1), "classification", seed)
        assert {found.name(i) for i in range(wanted)} < {more.name(i) for i in range(wanted + 1)}
    for number, said in ((len(sizes) - 1, "or more"), (len(labels) + 1, "or less")):
        if number:
            with pytest.raises(UserError, match=said):
                fewer_labels(source, str(number), "classification", seed)


def test_more_labels_than_there_are(tmp_path: Path) -> None:
    source = open_data(str(write_images(tmp_path / "images", 9))).all  # 5 and 4
    with pytest.raises(UserError, match=r"class 'class1' has 4 images in train, fewer .* give 4-per-class or less"):
        fewer_labels(source, "5-per-class", "classification", 0)


# ---------------------------------------------------------------- names


def folders(root: Path, names: Sequence[str | bytes], each: int = 2) -> str:
    """A folder with a folder for each name."""
    for name in names:
        place = root / os.fsdecode(name)
        place.mkdir(parents=True)
        for number in range(each):
            picture(number).save(place / f"{number}.png")
    return str(root)


@pytest.mark.parametrize(
    "names", [["0.5", "1.0", "2.5"], ["0", "1", "nan"], ["a;b", "c"], ["inf", "1.5"], ["-1", "0", "1"], ["1|2", "3"]]
)
def test_names_of_folders_are_classes_whatever_they_look_like(tmp_path: Path, names: list[str]) -> None:
    source = open_data(folders(tmp_path, names)).all
    assert task_of(source) == "classification"
    assert sorted(answers(source, "classification").names) == sorted(names)
    assert source.take(np.arange(2)).label_kind == "folders"


CLASS = st.text(st.sampled_from("aB01279-_. "), min_size=1, max_size=5).filter(lambda name: name.strip(".") != "")


@given(st.sets(CLASS, min_size=2, max_size=8))
@example({str(n) for n in range(12)})
def test_new_models_order_folders_as_timms_reader_does(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    from timm.data.readers.reader_image_folder import find_images_and_targets

    visible = sorted({name.lower(): name for name in names if name[0] != "."}.values())
    root = folders(tmp_path_factory.mktemp("classes"), visible, each=1)
    _, theirs = find_images_and_targets(root)
    source = open_data(root)
    if len(visible) > 1:
        ours = answers(source.all, "classification").names
        keys = [re.sub(r"\d+", lambda found: str(int(found[0])), name.lower()) for name in visible]
        if len({*keys}) == len(keys):  # of names that it takes for equal, such as 1 and 01, it has no order
            assert list(ours) == sorted(theirs, key=theirs.__getitem__)


def test_labels_that_are_written_are_ordered_by_their_values(tmp_path: Path) -> None:
    source = open_data(table(tmp_path, [10, -1, 2, 0])).all
    assert answers(source, "classification").names == ("-1", "0", "2", "10")
    words = open_data(table(tmp_path, ["b10", "B2", "a"])).all
    assert answers(words, "classification").names == ("a", "B2", "b10")
    several = open_data(table(tmp_path, ["10;2", "2", "1"])).all
    assert answers(several, "multi-label").names == ("1", "2", "10")


def test_numbers_with_a_comma_are_asked_about(tmp_path: Path) -> None:
    source = open_data(table(tmp_path, ['"0,5"', '"12,25"', "3"])).all
    with pytest.raises(UserError, match=r"are numbers with a comma \(0,5\): write them with a point; or say"):
        task_of(source)
    assert task_of(open_data(table(tmp_path, ['"0,5"', '"a,b"'])).all) == "classification"


def test_numbers_but_for_nan_are_asked_about(tmp_path: Path) -> None:
    source = open_data(table(tmp_path, ["0", "1", "nan"])).all
    with pytest.raises(UserError, match=r"are numbers, but for nan: leave the cell empty .* `task='classification'`"):
        task_of(source)
    assert taken_for([source], "classification").task == "classification"


def test_what_labels_are_taken_for_is_said_with_the_reason(tmp_path: Path) -> None:
    said = {
        str(taken_for([open_data(table(tmp_path, labels)).all]))
        for labels in (["0.5", "1"], [-1, 0, 1], ["a;b", "c"], ["cat", "1"], ["250.00", "401.9"])
    }
    assert said == {
        "Labels are taken for numbers to predict: all are numbers, 2 different ones, and '0.5' is not whole "
        "(`task='classification'` if "
        "they are names)",
        "Labels are taken for classes: all are whole numbers (`task='regression'` if they measure something), and -1 "
        "is one of them: where it stands for no label, leave the cell empty",
        "Labels are taken for several at once: 'a;b' has a ; or | in it (`task='classification'` if it is one name)",
        "Labels are taken for classes: 'cat' is no number",
        "Labels are taken for classes: they are written as codes are, not as numbers ('250.00' beside '401.9'; "
        "`task='regression'` if they measure something)",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n0.png,a\n1.png,Tiger, Bengal\n", "line 3 of .* has 3 cells where the first line has 2: .*quotes"),
        ("path,label\n0.png,a\n1.png,b,\n", "line 3 of .* has 3 cells"),
        ("path,label\n0.png\n", "line 2 of .* has 1 cells"),
        ('path,label\n0.png,"a\n1.png,b\n2.png,c"d\n', "is no CSV table"),
        ('path,label\n0.png,"a\n1.png,b\n', "is no CSV table"),
        ("path,label,label\n0.png,a,b\n", "has 2 columns 'label'"),
    ],
)
def test_rows_that_are_not_of_the_header(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        open_data(str(tmp_path / "t.csv"))


def test_commas_and_quotes_inside_quotes_are_a_name(tmp_path: Path) -> None:
    text = 'path,label\n0.png,"Tiger, Bengal"\n"1, 2.png","Tiger, ""Siberian"""\n'
    (tmp_path / "t.csv").write_text(text)
    source = open_data(str(tmp_path / "t.csv")).all
    assert source.class_names == ('Tiger, "Siberian"', "Tiger, Bengal")
    assert source.name(1) == "1, 2.png"


def test_names_that_are_no_text_are_written_out(tmp_path: Path) -> None:
    source = open_data(folders(tmp_path, [b"caf\xe9", b"a\nb", b"\x1b[2J", b"-x"])).all
    assert set(source.class_names) == {r"caf\udce9", r"a\nb", r"\x1b[2J", "-x"}
    assert [os.fsencode(source.name(i)).split(b"/")[0] for i in range(0, 8, 2)] == [
        b"\x1b[2J",
        b"-x",
        b"a\nb",
        b"caf\xe9",
    ]
    "".join(source.class_names).encode()  # raises where that is no text
    folders(tmp_path, [rb"caf\udce9"])
    with pytest.raises(UserError, match=r"two folders that are both called caf\\udce9 when it is written"):
        _ = open_data(str(tmp_path)).all.class_names


def test_lists_of_a_class_label_have_its_names(tmp_path: Path) -> None:
    """As `datasets` describes them; -1 is its mark of an image without labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture(0).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    kept = pa.table({"image": [{"bytes": data, "path": f"{i}.png"} for i in range(3)], "labels": [[0, 2], [], [2]]})
    listed = {"feature": {"names": ["cat", "dog", "elk"], "_type": "ClassLabel"}, "_type": "List"}
    described = json.dumps({"info": {"features": {"labels": listed}}})
    pq.write_table(kept.replace_schema_metadata({"huggingface": described}), tmp_path / "images.parquet")
    found = answers(open_data(str(tmp_path / "images.parquet")).all, "multi-label")
    assert (found.names, found.values.tolist()) == (("cat", "elk"), [[1, 1], [0, 0], [0, 1]])


def test_names_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    """A disk of macOS has them taken apart, and archives keep that."""
    apart, composed = "cafe\u0301", "caf\u00e9"
    for number, name in enumerate((apart, composed)):
        source = open_data(folders(tmp_path / str(number), [name, "tea"])).all
        assert source.class_names == (composed, "tea")
        assert answers(source, "classification", ["tea", composed]).values.tolist() == [1, 1, 0, 0]
    with pytest.raises(UserError, match="two folders that are both called"):
        _ = open_data(folders(tmp_path / "2", [apart, composed])).all.class_names
