"""What is taken for a split: names in the ways people write them, in folders, files, tables and arrays."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from torchvision.datasets import ImageFolder as ByTorchvision

from openmae.data.opening import Data, open_data
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.splits import look_alikes, plainly, split_of
from openmae.errors import UserError
from tests.images import picture


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "train",
            "Trn Train TRAIN training training_set trainset TrainSet TRAINset seg_train train_images data_train "
            "train2017 01_train x_train trainval train-00000-of-00005 imagesTr ILSVRC2012_img_train traindata",
        ),
        (
            "val",
            "Val VALID validation Validation val2017 dev eval_set valset 02-val devset Evaluation images_val",
        ),
        ("test", "test Testing TEST test_set testset x_test seg_test test-0000 holdout imagesTs tst"),
        (
            None,
            "contest latest trains station restrain valley retrain tr ts texts train_test cat 0 évaluer attest devices",
        ),
    ],
)
def test_words_of_splits(kind: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        ("Training Testing", "Training - Testing"),
        ("Train Val Test", "Train Val Test"),
        ("train dev test", "train dev test"),
        ("seg_train seg_test", "seg_train - seg_test"),
        ("train_images val_images test_images", "train_images val_images test_images"),
        ("train2017 val2017", "train2017 val2017 -"),
        ("01_train 02_val", "01_train 02_val -"),
        ("chest_xray_train chest_xray_test", "chest_xray_train - chest_xray_test"),
        ("trainval test", "trainval - test"),
        ("train valid_images", "train valid_images -"),
        ("train2014 train2017 val2017", None),
        ("train_masks train test", "train - test"),
        ("train val dev", None),
        ("cats_train dogs_test", None),
        ("train", None),
        ("val test", None),
    ],
)
def test_splits_that_names_say_plainly(names: str, plain: str | None) -> None:
    found = plainly(look_alikes(names.split()))
    assert (found and " ".join(found.get(kind, "-") for kind in ("train", "val", "test"))) == plain


@pytest.mark.parametrize(
    "names", ["airport train_station train_interior test_tube", "dev prod", "valid invalid", "a b"]
)
def test_classes_that_have_a_word_in_common_with_splits(names: str) -> None:
    assert look_alikes(names.split()) == {}


# ---------------------------------------------------------------- folders


def write(root: Path, *names: str) -> Path:
    """An image for each name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / name)
    return root


def pictures(place: str, classes: Sequence[str] = ("cat", "dog"), each: int = 2) -> list[str]:
    return [f"{place}/{name}/{i}.png" for name in classes for i in range(each)]


def names_of(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def labels_of(source: Source) -> dict[str, str]:
    return {source.name(i): source.class_names[label] for i, label in enumerate(source.labels.tolist())}


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("data_train", "data_dev"),
        ("train2017", "val2017"),
    ],
)
def test_folders_are_splits_as_torchvision_reads_each(train: str, val: str, tmp_path: Path) -> None:
    write(tmp_path, *pictures(train), *pictures(val, each=1))
    data = open_data(str(tmp_path))
    assert data.has_splits
    assert not data.has_unused_test
    for folder, source in ((train, data.train), (val, data.val)):
        right = ByTorchvision(tmp_path / folder)
        assert source.class_names == tuple(right.classes)
        assert [(tmp_path / folder / source.name(i), int(n)) for i, n in enumerate(source.labels)] == [
            (Path(path), label) for path, label in right.samples
        ]
    assert labels_of(data.all) == {name: name.split("/")[1] for name in [*pictures(train), *pictures(val, each=1)]}
    assert train in data.taken
    assert f"{val}/ for val" in data.taken


def test_a_third_split_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, *pictures("Train"), *pictures("Val"), *pictures("Test"))
    data = open_data(str(tmp_path))
    assert data.has_unused_test
    assert len(data.val) == len(data.train) == 4
    assert len(data.all) == 12


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    """Vehicles: a train, a plane and a ship."""
    vehicles = pictures("", ["plane", "ship", "train"])
    write(tmp_path / "alone", *(name[1:] for name in vehicles))
    with pytest.raises(
        UserError, match=r"folders called train beside plane, ship, which may be splits or not.*`splits`"
    ):
        open_data(str(tmp_path / "alone"))
    for word in ("classes", "none"):
        data = open_data(str(tmp_path / "alone"), Selection(splits=word))
        assert not data.has_splits
        assert data.all.class_names == ("plane", "ship", "train")
    write(tmp_path / "both", *(f"Train{name}" for name in vehicles), *(f"Test{name}" for name in vehicles))
    data = open_data(str(tmp_path / "both"))
    assert data.train.class_names == data.val.class_names == ("plane", "ship", "train")
    stations = ["airport", "train_station", "train_interior", "test_tube"]
    assert open_data(str(write(tmp_path / "places", *(f"{name}/1.png" for name in stations)))).all.class_names == tuple(
        sorted(stations)
    )


ODD: Mapping[str, Sequence[str]] = {
    "another folder": ["seg_train", "seg_test", "other"],
    "two of a kind": ["train2014", "train2017", "val2017"],
    "val and test alone": ["val", "test"],
    "train alone": ["Training", "cat"],
}


@pytest.mark.parametrize("folders", ODD.values(), ids=ODD)
def test_what_is_not_plain_is_asked_for(folders: Sequence[str], tmp_path: Path) -> None:
    write(tmp_path, *(name for folder in folders for name in pictures(folder)))
    with pytest.raises(UserError, match="which may be splits or not: say by `splits` what they are") as refused:
        open_data(str(tmp_path))
    assert all(folder in str(refused.value) for folder in folders)
    first, second = folders[:2]
    data = open_data(str(tmp_path), Selection(splits=f"{second},{first}"))
    assert (len(data.train), len(data.val)) == (4, 4)
    assert data.taken == f"{second}/ for train, {first}/ for val"
    assert open_data(str(tmp_path), Selection(splits="classes")).all.class_names == tuple(sorted(folders))


def test_folders_leaves_out_what_is_no_split(tmp_path: Path) -> None:
    write(tmp_path, *pictures("seg_train"), *pictures("seg_test"), "other/1.png")
    data = open_data(str(tmp_path), Selection(splits="folders"))
    assert data.has_splits
    assert data.train.class_names == ("cat", "dog")


def test_none_keeps_the_classes_that_are_inside(tmp_path: Path) -> None:
    write(tmp_path, *pictures("Training"), *pictures("Testing"))
    data = open_data(str(tmp_path), Selection(splits="none"))
    assert not data.has_splits
    assert data.all.class_names == ("cat", "dog")
    assert len(data.all) == 8


@pytest.mark.parametrize("names", ["train", "train/cat", "Training/cat photos/dog"])
def test_one_folder_or_none_that_looks_so_is_no_question(names: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/1.png" for name in names.split()[:1]))
    for name in names.split()[1:]:
        (tmp_path / name).mkdir(parents=True)  # nothing to take for anything
    assert not open_data(str(tmp_path)).has_splits


def test_files_beside_the_splits_are_no_question(tmp_path: Path) -> None:
    write(tmp_path, *pictures("Train"), *pictures("Test"), "logo.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.txt").write_text("1")
    assert open_data(str(tmp_path)).has_splits


def test_splits_below_the_classes(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(f"{name}/{split}/{i}.png" for name in ("cat", "dog") for split in ("Train", "Test") for i in range(3)),
    )
    data = open_data(str(tmp_path))
    assert data.has_splits
    assert names_of(data.train) == [f"{name}/Train/{i}.png" for name in ("cat", "dog") for i in range(3)]
    assert labels_of(data.val) == {f"{name}/Test/{i}.png": name for name in ("cat", "dog") for i in range(3)}
    assert data.taken == "CLASS/Train/ for train, CLASS/Test/ for val"
    write(tmp_path, "bird/1.png")
    with pytest.raises(UserError, match="class folders in which folders are called Test, Train beside bird"):
        open_data(str(tmp_path))
    assert len(open_data(str(tmp_path), Selection(splits="none")).all) == 13


def test_masks_beside_images_are_no_class_that_is_divided(tmp_path: Path) -> None:
    """As ADE20K has them."""
    write(
        tmp_path,
        *(f"{kind}/{split}/1.png" for kind in ("images", "annotations") for split in ("training", "validation")),
    )
    with pytest.raises(UserError, match="annotations looks like masks of the images: leave it out by `exclude`"):
        open_data(str(tmp_path))
    data = open_data(str(tmp_path), Selection(exclude=("annotations",)))
    assert data.taken == "training/ for train, validation/ for val"
    assert (names_of(data.train), names_of(data.val)) == (["1.png"], ["1.png"])


def test_a_folder_called_test_deep_inside_is_no_question(tmp_path: Path) -> None:
    write(tmp_path, "2019/test/1.png", "2019/a/1.png", "2020/1.png", "2021/test/2.png")
    assert not open_data(str(tmp_path)).has_splits


def test_splits_in_the_only_folder(tmp_path: Path) -> None:
    write(tmp_path, *pictures("images/train"), *pictures("images/val"))
    (tmp_path / "labels/train").mkdir(parents=True)
    data = open_data(str(tmp_path))
    assert data.has_splits
    assert data.train.class_names == ("cat", "dog")
    assert len(open_data(str(tmp_path), Selection(splits="images/val,images/train")).train) == 4


def test_patterns_are_of_whole_paths_in_every_split(tmp_path: Path) -> None:
    write(tmp_path, *pictures("Train"), *pictures("Test"), "Test/cat/mask.png", "other/1.png")
    data = open_data(str(tmp_path), Selection(exclude=("mask.*", "/Train/cat/0.png", "other")))
    assert names_of(data.train) == ["cat/1.png", "dog/0.png", "dog/1.png"]
    assert names_of(data.val) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert names_of(data.all)[:2] == ["Test/cat/0.png", "Test/cat/1.png"]
    exact = write(tmp_path / "exact", *pictures("train"), *pictures("val"))
    assert names_of(open_data(str(exact), Selection(include=("/train/dog/*", "val"))).train) == [
        "dog/0.png",
        "dog/1.png",
    ]
    assert len(open_data(str(exact), Selection(include=("/train/dog/*", "val"))).all) == 6


def test_labels_of_splits_that_lead_back(tmp_path: Path) -> None:
    """What a split alone reaches by a link, the whole does not."""
    write(tmp_path, *pictures("train"), *pictures("val"), "c.png")
    (tmp_path / "train/dog/all").symlink_to(tmp_path)
    everything = open_data(str(tmp_path)).all
    numbers, classes = everything.numbers, everything.classes  # type: ignore[attr-defined]
    found = {name: classes[n] if n >= 0 else None for name, n in zip(names_of(everything), numbers, strict=True)}
    assert found == {**{name: name.split("/")[1] for name in [*pictures("train"), *pictures("val")]}, "c.png": None}


@pytest.mark.parametrize("word", ["", "Train", "a,b,c", "a,", "a,a", "yes"])
def test_a_word_that_says_nothing(word: str) -> None:
    with pytest.raises(UserError, match="`splits` is"):
        Selection(splits=word)


@pytest.mark.parametrize("word", ["folders", "one,two"])
def test_splits_that_are_not_there(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mend `splits`"):
        open_data(str(write(tmp_path, *pictures("a"))), Selection(splits=word))
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(UserError, match="no arrays called"):
        open_data(str(tmp_path / "a.npy"), Selection(splits=word))


# ---------------------------------------------------------------- files, tables, arrays


def write_tar(file: Path, *names: str) -> Path:
    with tarfile.open(file, "w") as tar:
        for number, name in enumerate(names):
            data = io.BytesIO()
            picture(number).save(data, "PNG")
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    return file


def opened(folder: Path, **asked: str) -> Data:
    return open_data(str(folder), Selection(**asked))  # type: ignore[arg-type]


def test_splits_by_the_names_of_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("Train-000", "Train-001", "TEST-000")):
        write_tar(tmp_path / f"{name}.tar", f"{number}a.png", f"{number}b.png")
    data = opened(tmp_path)
    assert (len(data.train), len(data.val), len(data.all)) == (4, 2, 6)
    assert data.taken == "Train-000.tar, ... for train, TEST-000.tar for val"
    assert [note.what for note in data.notes] == [f"Splits: {data.taken}"]
    assert len(opened(tmp_path, splits="TEST,Train").train) == 2
    assert not opened(tmp_path, splits="none").has_splits
    write_tar(tmp_path / "extra.tar", "9.png")
    with pytest.raises(UserError, match=r"files called .*Train-000.tar.* beside extra.tar, which may be splits or not"):
        opened(tmp_path)
    assert len(opened(tmp_path, splits="folders").all) == 6
    with pytest.raises(UserError, match="no files and no folders of members called Train and val"):
        opened(tmp_path, splits="Train,val")


def test_splits_by_the_folders_of_members(tmp_path: Path) -> None:
    """A folder with train/ and val/ that was made a .tar as it was."""
    members = [name for split in ("train", "val") for name in pictures(split)]
    data = opened(write_tar(tmp_path / "a.tar", *members))
    assert {name: label for part in (data.train, data.val) for name, label in labels_of(part).items()} == {
        name: name.split("/")[1] for name in members
    }
    file = write_tar(tmp_path / "b.tar", *members, "other/cat/1.png")
    with pytest.raises(UserError, match="members called train/, val/ beside other/"):
        opened(file)
    assert not opened(file, splits="none").has_splits
    for word in ("folders", "train,val"):  # as the question says that one may answer
        answered = opened(file, splits=word)
        assert (names_of(answered.train), names_of(answered.val)) == (names_of(data.train), names_of(data.val))
    assert names_of(opened(file, splits="val,other").val) == ["other/cat/1.png"]
    for word in ("folders", "train,val"):
        with pytest.raises(UserError, match="no folders of members called"):
            opened(write_tar(tmp_path / "c.tar", *pictures("a"), *pictures("b")), splits=word)


@pytest.mark.parametrize(
    ("folders", "answer"),
    [("test train_1 train_2", "train_1,test"), ("control test", "control,test"), ("plane train", "train,plane")],
)
def test_what_is_proposed_learns_from_train(folders: str, answer: str, tmp_path: Path) -> None:
    write(tmp_path, *(name for folder in folders.split() for name in pictures(folder)))
    with pytest.raises(UserError) as refused:
        open_data(str(tmp_path))
    assert str(refused.value).endswith(f"such as {answer}")


def test_splits_by_a_column_of_parquet_with_the_images_inside(tmp_path: Path) -> None:
    def write_rows(name: str, *splits: str | None) -> Path:
        columns = {"image": [picture(i).tobytes() for i in range(len(splits))], "split": splits}
        parquet.write_table(pyarrow.table(columns), tmp_path / name)
        return tmp_path / name

    data = opened(file := write_rows("a.parquet", "train", "test", "Train"))
    assert (names_of(data.train), names_of(data.val)) == (["a.parquet#0", "a.parquet#2"], ["a.parquet#1"])
    assert data.taken == "the rows by the column split"
    assert not opened(file, splits="none").has_splits
    assert names_of(opened(file, splits="test,train").train) == ["a.parquet#1"]
    assert not opened(write_rows("b.parquet", "all", "all")).has_splits
    with pytest.raises(UserError, match=r"row 2 of .* has the split '7'"):
        opened(write_rows("c.parquet", "train", "7"))
    with pytest.raises(UserError, match="no files and no rows called"):
        opened(write_rows("d.parquet", "all", "all"), splits="a,b")
    (tmp_path / "more").mkdir()
    for number in range(2):
        write_rows(f"more/{number}.parquet", "train", "val")
    assert len(opened(tmp_path / "more").val) == 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_a_table_in_any_case(kind: str, tmp_path: Path) -> None:
    columns = {"Path": ["a.png", "b.png"], "LABEL": ["x", "y"], "Split": ["train", "val"], "split_by": ["me", "me"]}
    if kind == "csv":
        lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
        (tmp_path / "t.csv").write_text("\n".join(lines))
    else:
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    data = opened(tmp_path / f"t.{kind}")
    assert (names_of(data.train), names_of(data.val)) == (["a.png"], ["b.png"])
    assert data.all.class_names == ("x", "y")
    (tmp_path / "two.csv").write_text("path,Label,LABEL\na.png,1,2\n")
    with pytest.raises(UserError, match="2 columns 'label'"):
        opened(tmp_path / "two.csv")
    (tmp_path / "own.csv").write_text("path,label,Label\na.png,1,2\nb.png,3,2\n")
    assert opened(tmp_path / "own.csv").all.class_names == ("1", "3")


def test_parquet_files_say_their_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        parquet.write_table(pyarrow.table({"image": [b"bytes"], "label": [0]}), tmp_path / f"{name}.parquet")
    assert opened(tmp_path).taken == (
        "train-00000-of-00001.parquet for train, validation-00000-of-00001.parquet for val"
    )


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Training", "Validation"), ("TRAIN", "test"), ("trn", "dev")]
)
def test_splits_of_a_table(train: str, val: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,split\na.png,{train}\nb.png,{val}\nc.png,{train}\n")
    data = opened(tmp_path / "t.csv")
    assert (names_of(data.train), names_of(data.val)) == (["a.png", "c.png"], ["b.png"])
    assert names_of(opened(tmp_path / "t.csv", splits=f"{val},{train}").train) == ["b.png"]
    assert not opened(tmp_path / "t.csv", splits="none").has_splits


def test_a_table_with_other_splits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,split\na.png,train\nb.png,site2\nc.png,site1\n")
    with pytest.raises(UserError, match=r"row 2 of .* has the split 'site2'"):
        opened(tmp_path / "t.csv")
    data = opened(tmp_path / "t.csv", splits="train,site1")
    assert (names_of(data.train), names_of(data.val), len(data.all)) == (["a.png"], ["c.png"], 3)
    with pytest.raises(UserError, match=r"site3: mend `splits`; its column says train, site2, site1"):
        opened(tmp_path / "t.csv", splits="train,site3")


def test_splits_of_arrays_as_keras_has_them(tmp_path: Path) -> None:
    images = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
    np.savez(tmp_path / "k.npz", x_test=images[:2], x_train=images[2:], y_test=[0, 1], y_train=[1, 0, 1, 0])
    data = opened(tmp_path / "k.npz")
    assert (data.train.labels.tolist(), data.val.labels.tolist()) == ([1, 0, 1, 0], [0, 1])
    assert len(opened(tmp_path / "k.npz", splits="x_test,x_train").train) == 2
    assert len(opened(tmp_path / "k.npz", splits="none").all) == 6
    with pytest.raises(UserError, match=r"no array x_val"):
        opened(tmp_path / "k.npz", splits="x_train,x_val")
