"""Serves what `openmae export MODEL --to onnx --out serving/model.onnx` writes, without torch and without openmae.

    pip install onnxruntime numpy pillow
    python serve_onnx.py serving/model.onnx photo.jpg other.png       classes with their scores, a JSON object a line
    python serve_onnx.py serving/model.onnx *.jpg --out features.npy  a row of scores or mean features for each image
    python serve_onnx.py serving/model.onnx --serve 8000
    curl --data-binary @photo.jpg http://127.0.0.1:8000/

Images are prepared as openmae prepares them for evaluation: resized so that 256/224 of the model's size is covered, or
just that size above 224 pixels, then the centre. It reads what Pillow reads: grey, grey with alpha, RGB and RGBA of 8
bits, grey of 16 bits and floats.
"""

import argparse
import io
import json
import math
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by channels
WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # what is scaled to 1
LARGEST_UPLOAD = 64 * 2**20  # bytes
SECONDS = 60  # that a client may be silent in the middle of a request
UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError)  # some of Pillow's decoders


class Model:
    """A graph, and what model.json says of it: beside the file, or, where that is lost, in the file's own metadata."""

    def __init__(self, file: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        beside = file.with_suffix(".json")
        inside = self.session.get_modelmeta().custom_metadata_map.get("openmae")
        if inside is None:
            sys.exit(f"{file} was not written by openmae export: it does not say how images are prepared")
        try:
            self.info = json.loads(beside.read_text() if beside.exists() else inside)
            shape = self.info["architecture"]
            encoder = shape.get("encoder", shape)
            self.height, self.width = encoder["img_size"]
            self.class_tokens = encoder["class_tokens"]
            self.pixels = self.info["statistics"]
            self.is_classifier = self.info["kind"] == "classifier"
        except (OSError, ValueError, LookupError, TypeError) as error:
            sys.exit(f"{beside} does not describe this model ({error}): export it anew, or remove that file")

    def prepare(self, data: bytes) -> np.ndarray:
        """An image file -> (C, H, W) float32, normalised. Raises OSError or ValueError for what is no such image."""
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:  # which names an address in memory
            raise ValueError("it is no image that Pillow can read") from None
        view = np.stack([self._centred(plane) for plane in self._planes(ImageOps.exif_transpose(image))])
        mean, std = (np.array(self.pixels[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
        return (view / np.float32(WHITE[self.pixels["pixel_type"]]) - mean) / std

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) -> scores (B, K), or the mean features of the patches (B, D)."""
        (outputs,) = self.session.run(None, {"images": images})
        return outputs if self.is_classifier else outputs[:, self.class_tokens :].mean(axis=1)

    def answer(self, scores: np.ndarray) -> dict[str, Any]:
        """Of one image's scores (K,): what they say, likeliest first; of its features (D,): these."""
        if not self.is_classifier:
            return {"features": scores.tolist()}
        names = self.info["class_names"] or [str(number) for number in range(len(scores))]
        # Two outputs may have one name, as ImageNet's cranes do: with its number, neither hides the other.
        names = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names)]
        if self.info["task"] == "regression":
            return {"values": dict(zip(names, scores.tolist(), strict=True))}
        if self.info["task"] == "multi-label":
            shares = 1 / (1 + np.exp(-scores))
        else:
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
        likeliest = np.argsort(-shares, kind="stable").tolist()
        return {"classes": {names[number]: round(float(shares[number]), 6) for number in likeliest}}

    def _planes(self, image: Image.Image) -> list[Image.Image]:
        """One image for each channel that the model takes, of the depth that it was trained on."""
        channels, wanted = self.pixels["in_chans"], self.pixels["pixel_type"]
        depth = {"I": "uint16", "F": "float32"}.get(image.mode[0], "uint8")
        if "bands" in self.pixels or channels not in MODES or (depth != "uint8" and channels > 1):
            raise ValueError("this script reads grey and colour images as Pillow does; this model takes others")
        if list(WHITE).index(depth) > list(WHITE).index(wanted):
            raise ValueError(f"it has {depth} pixels, and the model was trained on {wanted}")
        planes = image.split() if depth != "uint8" else image.convert(MODES[channels]).split()
        if wanted == "uint8":
            return list(planes)
        factor = np.float32(WHITE[wanted] / WHITE[depth])
        return [Image.fromarray(np.asarray(plane).astype(np.float32) * factor) for plane in planes]

    def _centred(self, image: Image.Image) -> np.ndarray:
        """(H, W): the middle of the image, resized; one of exactly the model's size is taken as it is."""
        size = (self.width, self.height)
        if image.size == size:
            return np.asarray(image, np.float32)
        # The far ends of a long strip are left out first, since they would be enlarged only to be cut off.
        least = min(side / wanted for side, wanted in zip(image.size, size, strict=True))
        cut = [
            max(0, (side - 8 * math.ceil(wanted * least)) // 2) for side, wanted in zip(image.size, size, strict=True)
        ]
        image = image.crop((cut[0], cut[1], image.width - cut[0], image.height - cut[1]))
        # Both sides are cut to whole pixels; of a view that is not square, the one that is not just covered is rounded.
        sides = size if max(size) > 224 else (self.width * 256 // 224, self.height * 256 // 224)
        first = 0 if image.width * sides[1] < image.height * sides[0] else 1
        covered = sides[first]
        if self.width == self.height:
            other = covered * image.size[1 - first] // image.size[first]
        else:
            other = round(image.size[1 - first] / (image.size[first] / covered))
        other = max(size[1 - first], other)
        larger = (covered, other) if first == 0 else (other, covered)
        resized = image.resize(larger, Image.Resampling.BICUBIC)
        left, top = round((resized.width - self.width) / 2), round((resized.height - self.height) / 2)
        pixels = np.asarray(resized.crop((left, top, left + self.width, top + self.height)), np.float32)
        return np.clip(pixels.round(), 0, 65535) if self.pixels["pixel_type"] == "uint16" else pixels


def serve(model: Model, port: int) -> None:
    """Answers POSTed image files with JSON until it is stopped."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length", 0))
                if not 0 < length <= LARGEST_UPLOAD:
                    raise ValueError(f"send an image file of at most {LARGEST_UPLOAD} bytes")
                images = model.prepare(self.rfile.read(length))[None]
            except UNREADABLE as error:
                return self._send(400, {"error": str(error)})
            return self._send(200, model.answer(model(images)[0]))

        def _send(self, code: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"POST an image file to http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="write scores or mean features to this .npy file")
    parser.add_argument(
        "--serve", type=int, metavar="PORT", help="answer POSTed images on this port; 0 takes a free one"
    )
    given = parser.parse_args()
    if given.serve is None and not given.images:
        parser.error("give images, or --serve PORT")
    if given.out is not None and (given.out.suffix != ".npy" or not given.out.parent.is_dir()):
        parser.error(f"--out is {given.out}: give a file that ends in .npy, in a folder that is there")
    try:
        model = Model(given.model)
    except Exception as error:  # onnxruntime's have no class in common
        parser.error(f"{given.model} is not a graph that openmae export wrote: {error}")
    if given.serve is not None:
        try:
            return serve(model, given.serve)
        except (OSError, OverflowError) as error:  # another program listens there, or it is no port
            parser.error(f"--serve {given.serve}: {error}")
        except KeyboardInterrupt:
            return None
    rows = []
    for file in given.images:
        try:
            images = model.prepare(file.read_bytes())[None]
        except UNREADABLE as error:
            sys.exit(f"{file}: {error}")
        rows.append(model(images)[0])
        if given.out is None:
            print(json.dumps({"image": str(file), **model.answer(rows[-1])}))
    if given.out is not None:
        np.save(given.out, np.stack(rows))
    return None


if __name__ == "__main__":
    main()
