"""Data and runs that many tests read: made once for a whole test run, by whichever of its processes needs one first,
and changed by nobody (a test that has to takes a `copy`). The fixtures in conftest.py name them."""

import fcntl
import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from openmae.cli import main
from openmae.recipes.demo.graph import graph_of
from openmae.weights import load_model
from tests.commands import detect, finetune, pretrain, segment
from tests.images import write_colours, write_images
from tests.scenes import write_objects, write_scenes


class Runs:
    """Those of one test run, below `folder`, which all of its processes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def data(self) -> Path:
        """40 images in two class folders."""
        return self.once("x-rays", lambda out: write_images(out, 40))

    def colours(self) -> Path:
        """Red, green and blue images in class folders: 24 in train/, as many in val/."""
        return self.once("colours", write_colours)

    def finished(self) -> Path:
        """A pre-training of two blocks by `data`, 3 times through."""
        flags = "--depth 2 --epochs 3 --pictures 10 --evaluations 10"
        return self.once("first", lambda out: done(pretrain(self.data(), out, flags)))

    def graph(self) -> Path:
        """What `demo --to-file` makes of `finished` for browsers, as ONNX."""
        loaded = load_model(self.finished())
        return self.once("graph.onnx", lambda out: out.write_bytes(graph_of(loaded.autoencoder, loaded.statistics)))

    def evaluated(self) -> Path:
        """`finished` with kNN figures of `data`."""
        return self.once("evaluated", lambda out: done(["knn", str(copy(self.finished(), out)), *self._judged()]))

    def classes(self) -> Path:
        """A fine-tuning of `finished` by the classes of `data`."""
        return self.once("classes", lambda out: done(finetune(self.finished(), self.data(), out)))

    def shards(self) -> Path:
        """`data`, packed."""
        return self.once("shards", lambda out: done(["pack", str(self.data()), str(out), "--workers", "0"]))

    def scenes(self) -> Path:
        """12 images with masks of three classes in train/, 6 in val/."""
        return self.once("scenes", write_scenes)

    def scenes_encoder(self) -> Path:
        """A pre-training of two blocks, 24 wide, at 16 x 16 pixels, by the images of `scenes`."""
        images = self.scenes() / "train" / "images"
        return self.once("scenes-encoder", lambda out: done(pretrain(images, out, "--depth 2")))

    def segmenter(self) -> Path:
        """It, with the classes of `scenes` learnt somewhat."""
        encoder, data = self.scenes_encoder(), self.scenes()
        return self.once(
            "segmenter", lambda out: done(segment(encoder, data, out, "--epochs 40 --blr 1 --evaluations 2"))
        )

    def objects(self) -> Path:
        """8 images with discs and squares as COCO has them in train/, 4 in val/."""
        return self.once("objects", write_objects)

    def objects_encoder(self) -> Path:
        """A pre-training of two blocks, 24 wide, at 16 x 16 pixels, by the images of `objects`."""
        images = self.objects() / "train" / "images"
        return self.once("objects-encoder", lambda out: done(pretrain(images, out, "--depth 2")))

    def detector(self) -> Path:
        """It, with the objects of `objects` learnt."""
        encoder, data = self.objects_encoder(), self.objects()
        flags = "--epochs 25 --batch-size 2 --blr 0.4 --clip-grad 1 --layer-decay 1 --evaluations 2 --scale 1 1"
        return self.once("detector", lambda out: done(detect(encoder, data, out, flags, "--channels 16")))

    def check(self) -> None:
        """Raises AssertionError where something here is no longer as it was made."""
        for file in self.folder.glob("*.json"):
            place = file.with_suffix("")
            made, now = json.loads(file.read_text()), fingerprints(place)
            changed = sorted(name for name in {*made, *now} if made.get(name) != now.get(name))
            assert not changed, f"a test has changed {place.name}, which all share: {', '.join(changed)}"

    def _judged(self) -> list[str]:
        return [str(self.data()), "--workers", "0"]

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The place that `make` fills. Made aside and renamed, so that of a killed process none half made is left."""
        place = self.folder / name
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                part = self.folder / "parts" / name
                shutil.rmtree(part, ignore_errors=True)
                part.parent.mkdir(exist_ok=True)
                make(part)
                for path in part.rglob("*"):  # root may write there all the same: hence `check`
                    path.chmod(path.stat().st_mode & ~0o222)
                (self.folder / f"{name}.json").write_text(json.dumps(fingerprints(part)))
                part.rename(place)
                place.chmod(place.stat().st_mode & ~0o222)
        return place


def copy(made: Path, place: Path) -> Path:
    """One that a test may change."""
    shutil.copytree(made, place)
    for path in (place, *place.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return place


def done(words: list[str]) -> None:
    assert main(words) == 0


def fingerprints(folder: Path) -> dict[str, list[str | int]]:
    """Of all that lies there: when it was last written, and its bytes."""
    return {
        str(path.relative_to(folder)): [
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        ]
        for path in (folder, *folder.rglob("*"))
    }
