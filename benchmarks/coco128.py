"""A detector learns 128 photographs by heart: whether boxes, outlines, 80 classes, crowds and RLE go through whole.

    python benchmarks/coco128.py ARCHIVES OUT                    an hour and a half of one core
    python benchmarks/coco128.py ARCHIVES OUT --images 8         some minutes

ARCHIVES has coco128.tar. OUT gets the photographs twice, to learn from and to be judged by, an encoder (192 wide, 4
deep, windows of 256 pixels, patches of 16) that learns from them without labels, and the detector's run; the same
command goes on. What it prints says nothing of new images.
"""

import argparse
import json
import tarfile
from pathlib import Path

from rich.console import Console

from openmae.errors import Interrupted
from openmae.files.whole import whole_folder
from openmae.recipes.detect.job import detect, said
from openmae.recipes.detect.settings import Detect
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain

SIDE, PATCH = 256, 16


def write_set(archives: Path, out: Path, images: int) -> Path:
    """OUT/photographs-N/{train,val,annotations}: the first so many photographs, the same in both splits."""
    place = out / f"photographs-{images}"
    if place.exists():
        return place
    with whole_folder(place) as folder, tarfile.open(archives / "coco128.tar") as tar:
        found = json.load(tar.extractfile("coco128/annotations/instances_train2017.json"))
        found["images"] = found["images"][:images]
        kept = {image["id"] for image in found["images"]}
        found["annotations"] = [one for one in found["annotations"] if one["image_id"] in kept]
        for split in ("train", "val"):
            (folder / split).mkdir(parents=True)
            for image in found["images"]:
                read = tar.extractfile(f"coco128/train2017/{image['file_name']}")
                (folder / split / image["file_name"]).write_bytes(read.read())
            file = folder / "annotations" / f"instances_{split}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(found))
    return place


def encoder_of(photographs: Path, out: Path, epochs: float) -> Path:
    """The run that pre-trained it, or goes on doing so."""
    run = out / "encoder"
    if not (run / "report.html").exists():
        pretrain(
            Pretrain(
                data=str(photographs / "train"),
                out=run,
                model="vit_tiny",
                embed_dim=192,
                depth=4,
                num_heads=3,
                decoder_embed_dim=96,
                decoder_depth=1,
                decoder_num_heads=3,
                img_size=SIDE,
                patch_size=PATCH,
                norm_pix_loss=False,
                epochs=epochs,
                batch_size=64,
                evaluations=1,
                pictures=1,
                workers=0,
            ),
            Console(),
        )
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=float, default=250.0)
    parser.add_argument("--rate", type=float, default=1e-3)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    encoder = encoder_of(write_set(given.archives, given.out, 128), given.out, epochs=37)
    settings = Detect(
        model=str(encoder),
        data=str(write_set(given.archives, given.out, given.images)),
        out=given.out / f"detector-{given.images}-{given.epochs:g}-{given.rate:g}",
        epochs=given.epochs,
        warmup_epochs=given.epochs * 0.03,
        batch_size=4,
        blr=given.rate * 256 / 4,
        clip_grad=1.0,
        layer_decay=1.0,
        weight_decay=0.01,
        channels=48,
        resize="fit",
        scale=(1.0, 1.0),
        hflip=False,
        colour_jitter=0.0,
        evaluations=4,
        keep_best="off",
        workers=0,
    )
    print(said(detect(settings, Console()), None))


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stopped:  # goes on from there
        raise SystemExit(f"{stopped}.") from stopped
