"""Folders for transformers: the same numbers there, and nothing lost on the way back."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save

from openmae.data.bundled import bundled_pictures
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.crop import centred_view
from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.masking import Masking
from openmae.model import MaskedAutoencoder, ViT
from openmae.recipes.export import job as export
from openmae.recipes.export.check import exported
from openmae.recipes.export.formats import hf as export_hf
from openmae.recipes.export.formats import processor as export_processor
from openmae.weights import Loaded, Model, load_model, model_json, serialize
from openmae.weights.entries import named
from tests.commands import Run, refused
from tests.models import randomize, tiny
from tests.weights.foreign import meta_weights, same_autoencoder, save_training, save_transformers

NAMES = ["a cat", "a dog", "Zürich"]


def of(model: Model, depth: Any = "uint8", bands: Any = None, **info: Any) -> Loaded:
    channels = model.encoder.in_chans
    mean, std = ([number + channel / 50 for channel in range(channels)] for number in (0.4, 0.3))
    statistics = Statistics(tuple(mean), tuple(std), PixelFormat(channels, bands, depth))
    return Loaded(model.eval(), statistics, model_json(model, statistics, {}, **info), "tiny")


def autoencoder(**changes: Any) -> MaskedAutoencoder:
    """Tiny and random; changes: of its architecture."""
    torch.manual_seed(0)
    model = dataclasses.replace(tiny(depth=1, decoder_depth=1).architecture, **changes).build()
    randomize(model)
    return model


def classifier(pool: Any = "class", outputs: int = 3, batch_norm: bool = False, **changes: Any) -> Classifier:
    model = Classifier(autoencoder(**changes).encoder, outputs, pool, batch_norm)
    randomize(model.head)
    if model.batch_norm is not None:
        torch.nn.init.uniform_(model.batch_norm.running_mean)
        torch.nn.init.uniform_(model.batch_norm.running_var, 0.5, 2)
    return model.eval()


def images_of(loaded: Loaded) -> torch.Tensor:
    return torch.randn(2, loaded.encoder.in_chans, *loaded.encoder.img_size, generator=torch.Generator().manual_seed(1))


def there_and_back(loaded: Loaded, to: str, out: Path) -> tuple[Loaded, list[str]]:
    """Exports, compares with transformers, and reads the folder again."""
    form = export.FORMATS[to]
    notes = form.write(loaded, out)
    assert form.compare(loaded, out, images_of(loaded)).difference < 1e-5
    again = load_model(out)
    assert again.statistics == loaded.statistics
    for key in ("class_names", "task", "licence"):
        assert again.info[key] == loaded.info[key]
    return again, notes


def assert_same(ours: Model, again: Model) -> None:
    """Bit for bit, and of the same shape."""
    assert type(again) is type(ours)
    expected, found = named(ours), named(again)
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        assert torch.equal(weight, found[key]), key
    assert ours.encoder.norm_eps == again.encoder.norm_eps


SHAPES = st.fixed_dictionaries(
    {
        "patches": st.integers(2, 4),
        "patch": st.integers(1, 6),
        "in_chans": st.sampled_from([1, 2, 3, 4, 12]),
        "width": st.sampled_from([8, 24, 44]),
        "depth": st.integers(1, 3),
        "decoder_embed_dim": st.sampled_from([8, 16]),
        "decoder_depth": st.integers(1, 2),
        "mlp_ratio": st.sampled_from([1.0, 2.7, 4.0]),
        "target": st.sampled_from(["pixel", "norm_pix"]),
        "norm_eps": st.sampled_from([1e-6, 1e-12, 1e-5]),
        "learned": st.booleans(),
        "pixels": st.sampled_from(["uint8", "uint16", "float32"]),
    }
)


def of_shape(shape: dict[str, Any]) -> MaskedAutoencoder:
    drawn = dict(shape)
    patch, patches, learned = drawn.pop("patch"), drawn.pop("patches"), drawn.pop("learned")
    drawn.pop("pixels")
    if patch == 1 and drawn["in_chans"] == 1:
        drawn["target"] = "pixel"  # one value has no variance
    return autoencoder(
        img_size=(patch * patches,) * 2,
        patch_size=(patch,) * 2,
        embed_dim=drawn.pop("width"),
        learned_positions=learned,
        decoder_learned_positions=learned,
        **drawn,
    )


@settings(max_examples=15)
@given(shape=SHAPES)
def test_autoencoder_is_the_same_there_and_here(shape: dict[str, Any], tmp_path_factory: Any) -> None:
    model = of_shape(shape)
    out = tmp_path_factory.mktemp("hf") / "out"
    again, _ = there_and_back(of(model, shape["pixels"], licence="cc-by-nc-4.0"), "hf-mae", out)
    assert_same(model, again.model)
    assert isinstance(again.model, MaskedAutoencoder)
    kept = {"mlp_ratio": model.architecture.mlp_ratio}  # of which a file has the rounded widths only
    assert dataclasses.replace(again.model.architecture, **kept) == model.architecture


@settings(max_examples=8)
@given(shape=SHAPES, batch_norm=st.booleans())
def test_a_classifier_of_the_patches_mean_is_the_same_there_and_here(
    shape: dict[str, Any], batch_norm: bool, tmp_path_factory: Any
) -> None:
    torch.manual_seed(0)
    model = Classifier(of_shape(shape).encoder, 3, "mean", batch_norm)
    randomize(model)
    loaded = of(model, shape["pixels"], task="classification", class_names=NAMES)
    out = tmp_path_factory.mktemp("hf") / "out"
    again, notes = there_and_back(loaded, "hf-vit", out)
    assert "stretches" not in " ".join(notes)
    images = images_of(loaded)
    with torch.no_grad():
        torch.testing.assert_close(again.model(images), loaded.model(images), rtol=0, atol=1e-5)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out)
    assert type(theirs).__name__ == "BeitForImageClassification"
    assert export_hf.usage_vit(loaded, out).startswith("transformers.BeitForImageClassification")


def test_what_beit_has_beside_is_not_read(tmp_path: Path) -> None:
    export_hf.write_vit(of(classifier("mean"), task="classification", class_names=NAMES), tmp_path / "out")
    config = transformers.BeitConfig.from_pretrained(tmp_path / "out")
    for name, changes, word in (
        ("a", {"layer_scale_init_value": 0.1}, "lambda_1 is unexpected"),
        ("b", {"use_relative_position_bias": True}, "relative_position_bias_table is unexpected"),
        ("c", {"use_absolute_position_embeddings": False}, "position_embeddings is missing"),
        ("d", {"use_mean_pooling": False}, "pools by its class token"),
        ("e", {"hidden_act": "relu"}, "computes with relu"),
    ):
        other = transformers.BeitConfig(**{**config.to_dict(), **changes})
        save_transformers(transformers.BeitForImageClassification(other), tmp_path / name)
        with pytest.raises(UserError, match=word):
            load_model(tmp_path / name)


def test_what_transformers_trained_on_comes_back(tmp_path: Path) -> None:
    """from_pretrained lets positions learn that are fixed, the class token's in the decoder among them."""
    loaded = of(autoencoder())
    export_hf.write_mae(loaded, tmp_path / "out")
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out").train()
    theirs.decoder.decoder_pos_embed.requires_grad_(True)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.02)
    for _ in range(3):
        theirs(images_of(loaded)).loss.backward()
        optimizer.step()
    assert theirs.eval().decoder.decoder_pos_embed[0, 0].abs().min() > 0
    again = load_model(save_transformers(theirs, tmp_path / "trained"))
    same_autoencoder(again.autoencoder, theirs)
    assert again.autoencoder.architecture.decoder_learned_positions
    weights = meta_weights(theirs)
    arguments = {"norm_pix_loss": again.autoencoder.architecture.target == "norm_pix"}
    of_meta = load_model(save_training(tmp_path / "a.pth", weights, **arguments), num_heads=2, decoder_num_heads=2)
    same_autoencoder(of_meta.autoencoder, theirs)
    there_and_back(again, "hf-mae", tmp_path / "once more")


@settings(max_examples=10)
@given(shape=SHAPES, sides=st.tuples(st.integers(1, 3), st.integers(1, 3)), head=st.booleans())
def test_encoder_and_classifier_are_the_same_there_and_here(
    shape: dict[str, Any], sides: tuple[int, int], head: bool, tmp_path_factory: Any
) -> None:
    made = of_shape(shape).encoder
    patch = (made.patch_size[0] * sides[1], made.patch_size[1])  # patches and images that are no squares
    size = (patch[0] * (sides[0] + 1), patch[1] * sides[1])
    vit = ViT(**{**made.arguments(), "img_size": size, "patch_size": patch})
    torch.manual_seed(0)
    randomize(vit)
    model = Classifier(vit, 3, "class") if head else Encoder(vit)
    info = {"task": "classification", "class_names": NAMES} if head else {}
    again, notes = there_and_back(of(model, shape["pixels"], **info), "hf-vit", tmp_path_factory.mktemp("hf") / "out")
    assert_same(model, again.model)
    assert any("stretches" in note for note in notes) == (size[0] != size[1])


# ---------------------------------------------------------------- what travels along


@pytest.mark.parametrize(
    ("task", "names", "problem"),
    [
        ("classification", NAMES, "single_label_classification"),
        ("classification", ["one"], None),
        ("multi-label", NAMES, "multi_label_classification"),
        ("regression", ["value"], "regression"),
        ("regression", None, "regression"),
        (None, None, None),
    ],
)
def test_what_the_outputs_stand_for(task: Any, names: Any, problem: str | None, tmp_path: Path) -> None:
    model = classifier(outputs=len(names or NAMES))
    there_and_back(of(model, task=task, class_names=names), "hf-vit", tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.problem_type, config.num_labels) == (problem, model.head.out_features)
    if names is not None:
        assert [config.id2label[number] for number in range(len(names))] == names
        assert config.label2id == {name: number for number, name in enumerate(names)}


def test_batch_norm_is_folded(tmp_path: Path) -> None:
    loaded = of(classifier(batch_norm=True), task="classification", class_names=NAMES)
    again, _ = there_and_back(loaded, "hf-vit", tmp_path / "out")
    assert_same(exported(loaded.model), again.model)


def test_the_decoder_is_left_out_of_a_vit(tmp_path: Path) -> None:
    model = autoencoder()
    again, notes = there_and_back(of(model), "hf-vit", tmp_path / "out")
    assert_same(Encoder(model.encoder), again.model)
    assert notes[0] == "The decoder is left out: ViTModel has none"


@pytest.mark.parametrize("learned", [False, True])
def test_positions_between_those_of_another_grid(learned: bool, tmp_path: Path) -> None:
    model = Encoder(autoencoder(learned_positions=learned).encoder.resized((48, 32)))
    again, _ = there_and_back(of(model), "hf-vit", tmp_path / "out")
    assert_same(model, again.model)
    assert again.encoder.arguments() == model.encoder.arguments()


def test_masking_and_bands(tmp_path: Path) -> None:
    masking = Masking(0.6, "block", 2, "cosine", 0.5, 0.8)
    model = autoencoder(masking=masking)
    again, notes = there_and_back(of(model, bands=(4, 3, 2)), "hf-mae", tmp_path / "out")
    assert again.autoencoder.masking == masking
    assert "at random, 60% of them" in notes[0]
    assert any("bands 4, 3, 2 alone" in note for note in notes)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").mask_ratio == 0.6
    plain, notes = there_and_back(of(autoencoder()), "hf-mae", tmp_path / "plain")
    assert plain.autoencoder.masking == Masking()
    assert "at random" not in " ".join(notes)


@pytest.mark.parametrize(
    ("kept", "word"),
    [({"masking": {"mask": "none"}}, "masking"), ({"masking": 3}, "masking"), ({"bands": "x"}, "bands")],
)
def test_what_it_keeps_for_openmae_may_be_damaged(kept: dict[str, Any], word: str, tmp_path: Path) -> None:
    export_hf.write_mae(of(autoencoder()), tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "openmae": kept}))
    with pytest.raises(UserError, match=word):
        load_model(tmp_path / "out")


@pytest.mark.parametrize("licence", [None, "apache-2.0", "Free, but: not for sale", 'Müller\'s "free" one'])
def test_the_card_says_the_licence_or_nothing(licence: str | None, tmp_path: Path) -> None:
    again, notes = there_and_back(of(autoencoder(), licence=licence), "hf-mae", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("license" in card) == (licence is not None)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert all(f"{note}." in card for note in notes)
    assert again.info["licence"] == licence


def test_names_of_weights_are_those_that_version_4_reads(tmp_path: Path) -> None:
    export_hf.write_mae(of(autoencoder()), tmp_path / "mae")
    export_hf.write_vit(of(classifier(), task="classification", class_names=NAMES), tmp_path / "vit")
    for folder, start in (("mae", "decoder.decoder_layers.0."), ("vit", "vit.encoder.layer.0.")):
        keys = load_file(tmp_path / folder / "model.safetensors")
        assert {f"{start}attention.attention.query.weight", f"{start}intermediate.dense.bias"} <= keys.keys()
        assert (tmp_path / folder / "model.safetensors").stat().st_mode & 0o044 == 0o044


# ---------------------------------------------------------------- what transformers makes of it


def processed(out: Path, image: Any, **settings: Any) -> torch.Tensor:
    return transformers.AutoImageProcessor.from_pretrained(out)(images=image, return_tensors="pt", **settings)[
        "pixel_values"
    ]


def ours(loaded: Loaded, picture: np.ndarray[Any, Any]) -> torch.Tensor:
    view = np.ascontiguousarray(centred_view(picture, loaded.encoder.img_size).transpose(2, 0, 1))
    return loaded.statistics.normalize(torch.from_numpy(view)[None])


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_the_image_processor_prepares_as_openmae_does(channels: int, depth: Any, tmp_path: Path) -> None:
    loaded = of(autoencoder(in_chans=channels), depth)
    export_hf.write_mae(loaded, tmp_path / "out")
    smooth = np.linspace(0, 0.9, 90)[:, None, None] * np.linspace(0.2, 1, 120)[:, None] * np.ones(channels)
    picture = (smooth * WHITE[depth]).astype(depth)
    given = picture.astype("float32") if depth == "uint16" else picture
    torch.testing.assert_close(processed(tmp_path / "out", given), ours(loaded, picture), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (32, 16)])
def test_the_image_processor_on_photographs(size: tuple[int, int], tmp_path: Path) -> None:
    loaded = of(autoencoder(img_size=size))
    notes = export_hf.write_vit(loaded, tmp_path / "out")
    picture = next(pixels for name, pixels in bundled_pictures() if name == "astronaut.png")
    picture = np.ascontiguousarray(picture[:, : 512 * size[1] // size[0]])  # of the model's shape
    expected = ours(loaded, picture)
    torch.testing.assert_close(processed(tmp_path / "out", Image.fromarray(picture)), expected, rtol=0, atol=1e-5)
    small = np.ascontiguousarray(picture[: size[0], : size[1]])
    assert "do_resize=False" in notes[1]
    torch.testing.assert_close(
        processed(tmp_path / "out", small, do_resize=False), ours(loaded, small), rtol=0, atol=1e-5
    )
    grey = Image.fromarray(small[..., 0])
    assert processed(tmp_path / "out", grey).shape == (1, 3, *size)


def test_views_that_differ_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, told = of(autoencoder(img_size=(56, 56))), "grey levels"  # at which no middle lies between two pixels
    assert told not in " ".join(export_hf.write_vit(loaded, tmp_path / "same"))
    config = export_processor.processor_config

    def other(loaded: Loaded) -> dict[str, Any]:
        return {**config(loaded), "size": {"shortest_edge": 80}}

    monkeypatch.setattr(export_processor, "processor_config", other)
    assert told in " ".join(export_hf.write_vit(loaded, tmp_path / "other"))


def test_pipelines(tmp_path: Path) -> None:
    picture = next(pixels for _, pixels in bundled_pictures())
    classes = of(classifier(), task="classification", class_names=NAMES)
    export_hf.write_vit(classes, tmp_path / "classes")
    pipeline: Any = transformers.pipeline
    found = pipeline("image-classification", str(tmp_path / "classes"))(Image.fromarray(picture))
    with torch.no_grad():
        expected = classes.model(ours(classes, picture)).softmax(dim=1)[0].tolist()
    assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in found} == dict(
        zip(NAMES, expected, strict=True)
    )
    encoder = of(Encoder(autoencoder().encoder))
    export_hf.write_vit(encoder, tmp_path / "encoder")
    extract = pipeline("image-feature-extraction", str(tmp_path / "encoder"))
    with torch.no_grad():
        features = encoder.model(ours(encoder, picture))
    np.testing.assert_allclose(extract(Image.fromarray(picture)), features, atol=1e-5)
    pooled = extract(Image.fromarray(picture), pool=True)
    np.testing.assert_allclose(pooled, features[:, 0], atol=1e-5)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("to", "make", "word"),
    [
        ("hf-mae", lambda: Encoder(autoencoder().encoder), "has no decoder.*: export to hf-vit$"),
        ("hf-mae", classifier, "has no decoder.*: export to hf-vit$"),
        ("hf-mae", lambda: classifier("mean"), "has no decoder.*: export to hf-vit$"),
        ("hf-mae", lambda: autoencoder(class_tokens=2), "has one class token, and tiny has 2"),
        ("hf-mae", lambda: autoencoder(decoder="cross"), "cross-attention decoder"),
        ("hf-mae", lambda: autoencoder(encoder_mask_token=True), "mask tokens"),
        ("hf-mae", lambda: autoencoder(img_size=(32, 16)), "square"),
        ("hf-mae", lambda: autoencoder(patch_size=(8, 4)), "square"),
        ("hf-mae", lambda: autoencoder(target="hog"), "predicts hog"),
        ("hf-mae", lambda: autoencoder(target="pca"), "predicts pca"),
        ("hf-vit", lambda: autoencoder(class_tokens=0), "has one class token, and tiny has 0"),
        ("hf-vit", lambda: autoencoder(img_size=(8, 8, 8), patch_size=(4, 4, 4)), "images of 2 axes"),
        ("hf-vit", lambda: classifier("mean", img_size=(32, 16)), "by the mean of the patches in square"),
        ("hf-vit", lambda: classifier("mean", patch_size=(8, 4)), "by the mean of the patches in square"),
    ],
)
def test_what_transformers_has_no_model_for(to: str, make: Callable[[], Model], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word) as caught:
        export.FORMATS[to].write(of(make()), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert ": export " in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_transformers_is_missing_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["transformers"], "__version__", "4.49.0")  # the module takes its own place anew
        with pytest.raises(UserError, match=r"newer, and 4\.49\.0 is installed"):
            export_hf.write_vit(of(autoencoder()), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        export_hf.write_vit(of(autoencoder()), tmp_path / "out")


# ---------------------------------------------------------------- the command


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file with a tiny autoencoder."""
    loaded = of(autoencoder(), licence="cc-by-nc-4.0")
    (tmp_path / "tiny.safetensors").write_bytes(serialize(loaded.model, loaded.info))
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[torch.Tensor], Any]], None]:
    """Has every export change what it has written of one weight, or leave it out."""

    def disturb(key: str, change: Callable[[torch.Tensor], Any]) -> None:
        def write(loaded: Loaded, out: Path) -> list[str]:
            notes = export_hf.write_mae(loaded, out)
            weights = load_file(out / "model.safetensors")
            changed = change(weights.pop(key))
            weights |= {} if changed is None else {key: changed}
            (out / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
            return notes

        monkeypatch.setitem(export.FORMATS, "hf-mae", dataclasses.replace(export.FORMATS["hf-mae"], write=write))

    return disturb


def test_from_the_command_line(run: Run, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "first-hf"
    command = ("export", saved, "--to", "hf-mae", "--out", out)
    code, printed, errors = run(*command)
    assert (code, errors) == (0, "")
    assert "Checked with transformers" in printed
    assert f'transformers.ViTMAEForPreTraining.from_pretrained("{out}")' in printed
    assert {file.name for file in out.iterdir()} == {
        "README.md",
        "config.json",
        "model.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    refused(run(*command), "is there already", "--force")
    code, printed, _ = run("export", saved, "--to", "hf-vit", "--out", out, "--force")
    assert (code, "decoder is left out" in printed) == (0, True)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["ViTModel"]
    again = load_model(out)
    assert again.info["licence"] == "cc-by-nc-4.0"
    assert_same(Encoder(load_model(saved).encoder), again.model)
    refused(run("export", out, "--to", "hf-mae", "--out", tmp_path / "third"), "has no decoder", "hf-vit")
    (tmp_path / "holiday").mkdir()
    refused(run("export", saved, "--to", "hf-vit", "--out", tmp_path / "holiday", "--force"), "give another")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first-hf", "holiday", saved.name]


@pytest.mark.parametrize("key", ["decoder.decoder_pred.weight", "vit.layernorm.bias", "decoder.decoder_pos_embed"])
def test_a_wrong_weight_is_noticed(key: str, run: Run, saved: Path, tmp_path: Path, disturbed: Any) -> None:
    disturbed(key, lambda weight: weight.roll(1, -1))
    refused(run("export", saved, "--to", "hf-mae", "--out", tmp_path / "out"), "differ by", "nothing was written")
    assert [file.name for file in tmp_path.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("change", "words"), [(lambda weight: None, "missing_keys"), (lambda weight: weight[:1], "transformers")]
)
def test_a_weight_that_is_missing_or_misshapen(
    change: Any, words: str, run: Run, saved: Path, tmp_path: Path, disturbed: Any
) -> None:
    disturbed("decoder.decoder_norm.weight", change)
    refused(run("export", saved, "--to", "hf-mae", "--out", tmp_path / "out"), words, "please report this")
    assert [file.name for file in tmp_path.iterdir()] == [saved.name]
