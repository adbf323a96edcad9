"""hub:user/name and openmae push, with the real huggingface_hub, against a stand-in for the Hub (hub_server.py)."""

import errno
import json
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import save_file

import openmae
from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.report.card.card import LOSS, PANEL, is_as_written
from openmae.report.card.text import escaped, place_name
from openmae.weights import hf, load_model, timm
from openmae.weights.entries import write_weights
from tests.commands import Run, finetune, refused
from tests.processes import run_openmae
from tests.runs import copy
from tests.weights.hub_server import Hub, serve_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of its own, an empty cache, and Alice logged in."""
    with serve_hub() as served:
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # What follows with raising=False has another place, or none, in the oldest version.
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        yield served


def native(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("model.json", "model.safetensors")}


def mae_of_transformers(folder: Path) -> openmae.MaskedAutoencoder:
    """A folder as transformers writes it, without its help: tests of that format have the library's own."""
    model = openmae.create_model(
        "vit_tiny", img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1,
        decoder_num_heads=2,
    )  # fmt: skip
    config = {
        "model_type": "vit_mae", "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "num_channels": 3, "layer_norm_eps": 1e-6,
        "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32, "norm_pix_loss": True,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_rescale": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "rescale_factor": 1 / 255}))
    (folder / "modeling.py").write_text("raise SystemExit")
    weights = write_weights(model, hf.entries(model))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    torch.save(weights, folder / "pytorch_model.bin")
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def fetched_files(hub: Hub) -> set[str]:
    return {asked.rsplit("/", 1)[1] for asked in hub.requests if asked.startswith("GET") and "/resolve/" in asked}


# ---------------------------------------------------------------- there and back


def test_a_run_is_pushed_and_loaded_by_real_processes(evaluated: Path, tmp_path: Path) -> None:
    with serve_hub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_alice"}
        script = (
            "import sys, openmae; from openmae.cli import main; run = sys.argv[1]; "
            "assert main(['push', run, 'alice/xray', '--licence', 'Apache-2.0']) == 0; "
            "one, other = openmae.load(run).state_dict(), openmae.load('hub:alice/xray').state_dict(); "
            "assert all(one[key].equal(other[key]) for key in one) and one.keys() == other.keys()"
        )
        done = run_openmae([str(evaluated)], environment={**os.environ, **settings}, code=script)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert f"It is at {hub.url}/alice/xray" in done.stdout
        assert 'openmae.load("hub:alice/xray")' in done.stdout
        repository = hub.repositories["alice/xray"]
        assert len(repository.commits) == 2, "the repository's own, and one"
        assert repository.files.keys() - {".gitattributes"} == {
            "README.md", "model.json", "model.safetensors", LOSS, PANEL,
        }  # fmt: skip
        assert fetched_files(hub) == {"README.md", "model.json", "model.safetensors"}


def test_what_travels_with_the_weights_comes_back(classes: Path, hub: Hub, run: Run) -> None:
    assert run("push", classes, "hub:alice/classes", "--licence", "mit", "--private")[0] == 0
    assert hub.repositories["alice/classes"].private
    before, after = load_model(classes), load_model("hub:alice/classes")
    assert same_weights(before.model, after.model)
    assert after.statistics == before.statistics
    assert after.info["class_names"] == before.info["class_names"] == ["class0", "class1"]
    assert (after.info["licence"], after.licence, after.name) == ("mit", "mit", "hub:alice/classes")
    provenance = after.info["provenance"]
    assert (provenance["hub"], provenance["data"], provenance["model"]) == ("alice/classes", "x-rays", "first")
    assert provenance["commit"] == hub.repositories["alice/classes"].head


def test_a_revision_is_loaded(evaluated: Path, classes: Path, hub: Hub) -> None:
    repository = hub.add("bob/it", native(evaluated))
    first = repository.head
    repository.commit(native(classes))
    assert load_model(f"hub:bob/it@{first}").info["kind"] == "autoencoder"
    assert load_model("hub:bob/it").info["kind"] == load_model("hub:bob/it@main").info["kind"] == "classifier"


def test_transformers_folders_are_loaded_from_safetensors_and_never_code(tmp_path: Path, hub: Hub) -> None:
    model = mae_of_transformers(tmp_path / "mae")
    hub.add("facebook/mae", contents(tmp_path / "mae"))
    loaded = load_model("hub:facebook/mae")
    assert same_weights(loaded.model, load_model(tmp_path / "mae").model)
    assert torch.equal(loaded.encoder.patch_embed.weight, model.encoder.patch_embed.weight)
    assert loaded.statistics.mean == (0.1, 0.2, 0.3)
    assert loaded.licence == "cc-by-nc-4.0"
    assert loaded.info["provenance"]["file"] == "hub:facebook/mae"
    assert fetched_files(hub) == {"config.json", "preprocessor_config.json", "README.md", "model.safetensors"}
    hub.add("bob/mae", {**contents(tmp_path / "mae"), "model.json": b'{"licence": "mit"}'})
    assert load_model("hub:bob/mae").licence == "mit", "model.json says it before the card does"


def test_pickled_weights_are_fetched_where_there_are_no_others(tmp_path: Path, hub: Hub) -> None:
    mae_of_transformers(tmp_path / "mae")
    (tmp_path / "mae" / "model.safetensors").rename(tmp_path / "kept.safetensors")
    hub.add("facebook/old", contents(tmp_path / "mae"))
    loaded = load_model("hub:facebook/old")
    assert "pytorch_model.bin" in fetched_files(hub)
    (tmp_path / "kept.safetensors").rename(tmp_path / "mae" / "model.safetensors")
    assert same_weights(loaded.model, load_model(tmp_path / "mae").model)


def test_timm_folders_are_loaded_and_pushed_on_with_their_licence(tmp_path: Path, hub: Hub, run: Run) -> None:
    encoder = Encoder(openmae.create_model("vit_tiny", img_size=32, patch_size=16).encoder)
    save_file(write_weights(encoder, timm.entries(encoder)), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    hub.add("timm/tiny", contents(tmp_path))
    loaded = load_model("hub:timm/tiny")
    assert torch.equal(loaded.encoder.patch_embed.weight, encoder.encoder.patch_embed.weight)
    assert loaded.statistics.std == (0.25, 0.25, 0.25)
    assert loaded.licence == "apache-2.0"
    assert run("push", "hub:timm/tiny", "alice/copy")[0] == 0
    card = hub.repositories["alice/copy"].files["README.md"].decode()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "\nbase_model: timm/tiny\n" in card
    copy = load_model("hub:alice/copy")
    assert same_weights(copy.model, loaded.model)
    assert (copy.licence, copy.info["provenance"]["model"]) == ("apache-2.0", "hub:timm/tiny")


def test_what_was_fetched_is_there_without_a_network(
    evaluated: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("bob/it", native(evaluated))
    whole = openmae.load("hub:bob/it")
    with monkeypatch.context() as cut_off:
        cut_off.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert same_weights(openmae.load("hub:bob/it"), whole), "nobody is there to be asked"
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(openmae.load("hub:bob/it"), whole)
    assert hub.requests == []


def test_commands_take_models_of_the_hub(evaluated: Path, data: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("bob/it", native(evaluated))
    out = tmp_path / "tuned"
    assert run(*finetune("hub:bob/it", data, out, "--epochs 1"))[0] == 0
    assert tomllib.loads((out / "config.toml").read_text())["model"] == "hub:bob/it"
    provenance = json.loads((out / "model.json").read_text())["provenance"]
    assert provenance["model"] == "hub:bob/it"
    assert provenance["pre-training"]["hub"] == "bob/it"
    assert run("finetune", "--resume", "--out", out)[0] == 0
    assert run("knn", "hub:bob/it", data, "--workers", 0)[0] == 0
    assert run("embed", "hub:bob/it", data, "--out", tmp_path / "it.parquet", "--workers", 0)[0] == 0
    assert run("reconstruct", "hub:bob/it", next(data.rglob("*.png")), "--out", tmp_path / "it.png")[0] == 0
    assert not Path("hub:bob").exists()
    assert run("push", out, "alice/tuned")[0] == 0
    assert "base_model: bob/it" in hub.repositories["alice/tuned"].files["README.md"].decode()


# ---------------------------------------------------------------- what cannot be fetched


BAD_NAMES = "hub: hub:name hub:a/b/c hub:-a/b hub:a/b--c hub:a/b.git hub:a/b@ hub:a/ü".split()


@pytest.mark.parametrize("name", [*BAD_NAMES, "hub:user/na me", "hub:a/" + "b" * 100])
def test_a_malformed_name_is_refused(name: str, run: Run, data: Path) -> None:
    refused(run("knn", name, data), name, "hub:user/name", "hub:facebook/vit-mae-base")


def test_a_missing_library_names_its_extra(
    run: Run, data: Path, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(run("knn", "hub:bob/it", data), "pip install huggingface_hub")
    refused(run("push", evaluated, "alice/it"), "pip install huggingface_hub")


@pytest.mark.parametrize("token", ["hf_alice", ""])
def test_what_may_not_be_seen_is_refused(
    token: str, evaluated: Path, hub: Hub, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("bob/secret", native(evaluated), private=True)
    hub.add("bob/gated", native(evaluated), gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    refused(run("knn", "hub:bob/nothing", data), "no bob/nothing", "private", "HF_TOKEN", "hf auth login")
    refused(run("knn", "hub:bob/secret", data), "no bob/secret", "private", "HF_TOKEN", "hf auth login")
    refused(run("knn", "hub:bob/gated", data), "gated", f"{hub.url}/bob/gated", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    assert openmae.load("hub:bob/secret") is not None


def test_a_token_that_is_not_known_is_refused(hub: Hub, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    refused(run("knn", "hub:bob/it", data), "does not accept the token", "HF_TOKEN")


def test_a_missing_revision_is_refused(evaluated: Path, hub: Hub, run: Run, data: Path) -> None:
    hub.add("bob/it", native(evaluated))
    refused(run("knn", "hub:bob/it@v2", data), "bob/it has no revision v2", f"of {hub.url}/bob/it.")


def test_other_models_are_refused_before_their_weights_are_fetched(hub: Hub, run: Run, data: Path) -> None:
    hub.add("google/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": bytes(2000)})
    hub.add("bob/notes", {"README.md": b"# Notes", "model.safetensors": bytes(2000)})
    hub.add("bob/odd", {"config.json": b"{}", "model.safetensors": bytes(2000)})
    hub.add("bob/empty", {"config.json": b'{"model_type": "vit"}', "tf_model.h5": bytes(2000)})
    hub.add("bob/broken", {"config.json": b'{"model_type": "vi', "model.safetensors": bytes(2000)})
    refused(run("knn", "hub:google/bert", data), "kind 'bert'", "vit_mae")
    refused(run("knn", "hub:bob/odd", data), "names no kind of model")
    refused(run("knn", "hub:bob/notes", data), "neither a model.json nor a config.json")
    refused(run("knn", "hub:bob/empty", data), "no weights")
    assert "model.safetensors" not in fetched_files(hub)
    refused(run("knn", "hub:bob/broken", data), "damaged")


@pytest.mark.parametrize(
    ("failure", "words"),
    [("500", "in trouble (it answers 500)"), ("429", "too many requests"), ("reset", "cannot be reached")],
)
def test_a_hub_in_trouble_is_said(failure: str, words: str, hub: Hub, run: Run, data: Path) -> None:
    hub.fail = lambda method, path: failure
    refused(run("knn", "hub:bob/it", data), words, hub.url)


def test_a_download_that_ends_early_is_said_and_goes_on_later(evaluated: Path, hub: Hub, run: Run, data: Path) -> None:
    hub.add("bob/it", native(evaluated))
    hub.fail = lambda method, path: "cut" if method == "GET" and path.endswith("model.safetensors") else ""
    refused(run("knn", "hub:bob/it", data), "bob/it", "try again")
    hub.fail = lambda method, path: ""
    assert same_weights(openmae.load("hub:bob/it"), openmae.load(evaluated))


def test_nothing_is_asked_where_that_is_forbidden(
    hub: Hub, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(run("knn", "hub:bob/it", data), "bob/it, which was not fetched before", "HF_HUB_OFFLINE")
    assert hub.requests == []


# ---------------------------------------------------------------- what cannot be pushed


def test_nothing_is_pushed_without_a_token(
    evaluated: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused(run("push", evaluated, "alice/it"), "hf auth login", "HF_TOKEN", f"{hub.url}/settings/tokens")
    assert hub.requests == []


def test_who_may_not_write_is_refused(evaluated: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = hub.add("bob/it", native(evaluated))
    refused(run("push", evaluated, "bob/other"), "no right to write to bob/other")
    refused(run("push", evaluated, "bob/it"), "no right to write to bob/it")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    refused(run("push", evaluated, "alice/it"), "does not accept the token")
    assert len(kept.commits) == 1
    assert hub.repositories.keys() == {"bob/it"}


@pytest.mark.parametrize("where", ["PUT /storage", "POST /api/models/alice/it/commit", "POST /api/repos/create"])
@pytest.mark.parametrize(("failure", "words"), [("503", "in trouble (it answers 503)"), ("reset", "cannot be reached")])
def test_nothing_is_there_by_half(where: str, failure: str, words: str, evaluated: Path, hub: Hub, run: Run) -> None:
    hub.fail = lambda method, path: failure if f"{method} {path}".startswith(where) else ""
    refused(run("push", evaluated, "alice/it"), words, hub.url)
    assert all(repository.files.keys() == {".gitattributes"} for repository in hub.repositories.values())
    hub.fail = lambda method, path: ""
    assert run("push", evaluated, "alice/it")[0] == 0
    assert same_weights(openmae.load("hub:alice/it"), openmae.load(evaluated))


def test_what_somebody_else_commits_meanwhile_is_not_lost(evaluated: Path, hub: Hub, run: Run) -> None:
    repository = hub.add("alice/it", {".gitattributes": b""})

    def edit(method: str, path: str) -> str:
        if "preupload" in path:
            repository.commit({**repository.files, "README.md": b"mine"})
        return ""

    hub.fail = edit
    refused(run("push", evaluated, "alice/it"), "changed by somebody else")
    assert repository.files["README.md"] == b"mine"


def test_what_the_hub_says_of_a_card_is_said(evaluated: Path, hub: Hub, run: Run) -> None:
    hub.fail = lambda method, path: "400" if "validate-yaml" in path else ""
    refused(run("push", evaluated, "alice/it"), "refuses alice/it (400: Invalid metadata in README.md.)")


def test_a_cache_that_cannot_be_written_is_said(
    evaluated: Path, hub: Hub, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("bob/it", native(evaluated))
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    refused(run("knn", "hub:bob/it", data), str(tmp_path / "file"), "HF_HOME")


def test_bad_words_are_refused(evaluated: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("alice/public", {".gitattributes": b""})
    hub.add("alice/bert", {"config.json": b"{}"})
    refused(run("push", evaluated, "xray"), "xray names no repository", "user/name")
    refused(run("push", evaluated, "alice/it@v2"), "names a revision")
    refused(run("push", evaluated, "alice/it", "--licence", "all rights reserved"), "--licence", "apache-2.0")
    refused(run("push", evaluated, "alice/public", "--private"), "public")
    refused(run("push", evaluated, "alice/bert"), "another library")
    refused(run("push", evaluated / "nothing", "alice/it"), "does not exist")
    refused(run("push", evaluated, "alice/it", "--dry-run", tmp_path.parent), "is there already")
    assert hub.repositories.keys() == {"alice/public", "alice/bert"}


# ---------------------------------------------------------------- the card


def pushed_dry(run: Run, model: Path | str, folder: Path, *words: str) -> tuple[str, str]:
    """(the card, what was said)."""
    code, said, errors = run("push", model, "alice/it", "--dry-run", folder, *words)
    assert code == 0, errors
    return (folder / "README.md").read_text(), said


def test_a_dry_run_sends_nothing_and_leaves_what_would_be_sent(
    evaluated: Path, hub: Hub, run: Run, tmp_path: Path
) -> None:
    card, said = pushed_dry(run, evaluated, tmp_path / "look")
    assert "Nothing was sent" in said
    assert openmae.push(evaluated, "alice/it", dry_run=tmp_path / "called") == str(tmp_path / "called")
    assert (tmp_path / "called/README.md").read_text() == card
    assert hub.requests == []
    assert same_weights(openmae.load(tmp_path / "look"), openmae.load(evaluated))
    assert run("push", evaluated, "alice/it")[0] == 0
    sent = hub.repositories["alice/it"].files
    assert contents(tmp_path / "look") == {name: sent[name] for name in sent if name != ".gitattributes"}


def test_a_dry_run_onto_a_full_disk_leaves_nothing(
    evaluated: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(run("push", evaluated, "alice/it", "--dry-run", tmp_path / "look"), "is full", "run the same command again")
    assert not (tmp_path / "look").exists()


def test_the_card_of_a_pretraining(evaluated: Path, run: Run, tmp_path: Path) -> None:
    card, said = pushed_dry(run, evaluated, tmp_path / "look", "--licence", "apache-2.0")
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: openmae\npipeline_tag: image-feature-extraction\n")
    assert re.findall("^## (.*)", card, re.MULTILINE) == [
        "Data", "Recipe", "Figures", "Curve", "What it fills in", "How to use it", "Intended use and limits",
        "Licence and provenance", "How it was made",
    ]  # fmt: skip
    for words in (
        "2 blocks of width 24", "3 channels", "- images: x-rays", "about 37", "| share of patches hidden | 0.75 |",
        "| features | kNN |",
        "| pre-trained, layer 2, mean |", 'load_model("hub:alice/it")',
        "`normalize` divides pixels by 255, subtracts the mean", "not examined for fairness",
        "The licence of these weights is apache-2.0.", torch.__version__.split("+")[0],
    ):  # fmt: skip
        assert words in card, words
    for picture in (LOSS, PANEL):
        assert picture in card
        assert (tmp_path / "look" / picture).read_bytes().startswith(b"\x89PNG")
    assert "images of your data" in said
    assert is_as_written(card)


def test_pictures_of_the_data_can_be_left_out(evaluated: Path, hub: Hub, run: Run) -> None:
    assert run("push", evaluated, "alice/it")[0] == 0
    assert PANEL in hub.repositories["alice/it"].files
    code, said, _ = run("push", evaluated, "alice/it", "--no-pictures")
    assert code == 0
    assert "images of your data" not in said
    files = hub.repositories["alice/it"].files
    assert PANEL not in files
    assert LOSS in files
    assert PANEL not in files["README.md"].decode()


def test_the_card_of_a_finetuning(classes: Path, data: Path, run: Run, tmp_path: Path) -> None:
    judged = copy(classes, tmp_path / "classes")
    assert run("evaluate", judged, data, "--workers", 0)[0] == 0
    card, said = pushed_dry(run, judged, tmp_path / "look")
    assert "pipeline_tag: image-classification" in card
    assert "license" not in card
    assert "No licence is stated for these weights" in card
    assert said.count("No licence is stated") == 1
    for words in (
        "in their order: class0, class1",
        "| Top-1 accuracy |",
        "images of x-rays (val):",
        "- began with: first",
    ):
        assert words in card, words


def test_the_card_of_a_file_is_shorter(evaluated: Path, run: Run, tmp_path: Path) -> None:
    card, _ = pushed_dry(run, evaluated / "model.safetensors", tmp_path / "look")
    assert "## Recipe" not in card
    assert "## Curve" not in card
    assert "## How to use it" in card
    assert contents(tmp_path / "look").keys() == {"README.md", "model.json", "model.safetensors"}


def test_nothing_private_leaks(
    classes: Path, evaluated: Path, data: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMAE_TEST_SECRET", "hunter2")
    for number, model in enumerate((classes, evaluated, classes / "model.safetensors")):
        folder = tmp_path / f"look{number}"
        card, _ = pushed_dry(run, model, folder)
        with safe_open(folder / "model.safetensors", "pt") as opened:
            header = json.dumps(opened.metadata())
        for text in (card, (folder / "model.json").read_text(), header):
            for secret in (str(data.parent), data.parent.name, str(evaluated.parent), platform.node(), "hunter2"):
                assert secret not in text, secret
            assert not re.search(r"[\"' ](?:/[\w.-]+){2,}", text), "no whole path"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/alice/x-rays", "x-rays"),
        ("x-rays/", "x-rays"),
        (r"C:\Users\alice\x-rays", "x-rays"),
        ("https://***@intranet/shards/{0..9}.tar?token=***", "{0..9}.tar"),
        ("s3://bucket/shards/a.tar", "a.tar"),
        ("hub:bob/it", "hub:bob/it"),
        ("/data/alice/x-rays (val) [exclude masks/*]", "x-rays (val) [exclude masks/*]"),
        (str(Path.home()), "a home folder"),
        ("/", "unnamed"),
    ],
)
def test_places_lose_where_they_lie(place: str, name: str) -> None:
    assert place_name(place) == name


def test_names_of_outside_are_no_markup() -> None:
    assert escaped("<script>\n![x](http://y)|`z`") == r"\<script\> !\[x\](http://y)\|\`z\`"


def test_a_card_that_was_edited_by_hand_stays(evaluated: Path, classes: Path, hub: Hub, run: Run) -> None:
    assert run("push", evaluated, "alice/it")[0] == 0
    repository = hub.repositories["alice/it"]
    written = repository.files["README.md"]
    assert "holds all of this already" in run("push", evaluated, "alice/it")[1]
    assert run("push", classes, "alice/it")[0] == 0
    assert repository.files["README.md"] != written, "nobody had edited it"
    edited = repository.files["README.md"].replace(b"# it", b"# The best")
    repository.commit({**repository.files, "README.md": edited})
    code, said, _ = run("push", evaluated, "alice/it")
    assert code == 0
    assert "edited by hand" in said
    assert "README.md  " not in said
    assert repository.files["README.md"] == edited
    assert load_model("hub:alice/it").info["kind"] == "autoencoder", "the weights are pushed all the same"
    assert run("push", evaluated, "alice/it", "--force")[0] == 0
    assert repository.files["README.md"] == written


@pytest.mark.parametrize(
    ("had", "wanted", "stated"),
    [
        (None, None, None),
        (None, "cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", None, "CC-BY-NC-4.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", "mit", "refused"),
        ("mit", "cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("apache-2.0", "cc0-1.0", "refused"),
        ("my-own", "apache-2.0", "refused"),
    ],
)
def test_licences_are_kept(
    had: str | None, wanted: str | None, stated: str | None, evaluated: Path, run: Run, tmp_path: Path
) -> None:
    loaded = load_model(evaluated)
    file = tmp_path / "given.safetensors"
    file.write_bytes(openmae.weights.serialize(loaded.model, {**loaded.info, "licence": had}))
    words = [] if wanted is None else ["--licence", wanted]
    if stated == "refused":
        refused(run("push", file, "alice/it", "--dry-run", tmp_path / "look", *words), f"under {had}", f"{wanted}")
        return
    card, _ = pushed_dry(run, file, tmp_path / "look", *words)
    assert json.loads((tmp_path / "look" / "model.json").read_text())["licence"] == stated
    assert load_model(tmp_path / "look").info["licence"] == stated
    assert (f"license: {stated.lower()}\n" in card) if stated else ("license" not in card)


def test_a_licence_that_the_hub_has_no_name_for(evaluated: Path, run: Run, tmp_path: Path) -> None:
    card, _ = pushed_dry(run, evaluated, tmp_path / "look", "--licence", "My-Own-1.0")
    assert "\nlicense: other\nlicense_name: my-own-1.0\n" in card


# ---------------------------------------------------------------- with the other libraries


@pytest.mark.slow
def test_names_of_timm_are_fetched_with_their_weights(tmp_path: Path, hub: Hub) -> None:
    library = pytest.importorskip("timm")
    model = library.create_model("vit_tiny_patch16_224", pretrained=False)
    library.models.save_for_hf(model, tmp_path / "tiny")
    hub.add("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", contents(tmp_path / "tiny"))
    for name in ("vit_tiny_patch16_224", "hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        loaded = load_model(name)
        assert torch.equal(loaded.encoder.blocks[3].attn.qkv.weight, model.blocks[3].attn.qkv.weight)
    hub.fail = lambda method, path: "500"
    with pytest.raises(UserError, match="timm has no weights for vit_small_patch16_224 here"):
        load_model("vit_small_patch16_224")


@pytest.mark.slow
def test_a_folder_that_transformers_wrote_in_parts(tmp_path: Path, hub: Hub) -> None:
    library = pytest.importorskip("transformers")
    config = library.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )  # fmt: skip
    model = library.ViTMAEForPreTraining(config)
    model.save_pretrained(tmp_path / "mae", max_shard_size="20KB")
    assert len(list((tmp_path / "mae").glob("model-*-of-*.safetensors"))) > 1
    hub.add("facebook/mae", contents(tmp_path / "mae"))
    assert same_weights(openmae.load("hub:facebook/mae"), openmae.load(tmp_path / "mae"))
