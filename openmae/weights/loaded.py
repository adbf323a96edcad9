"""A model and what travels with it: input statistics, what its outputs stand for, where it comes from, its licence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.data.formats.reading import Reading
from openmae.data.tasks import Task
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.files.address import shown
from openmae.heads import Answering, Classifier, Encoder, Link, Neighbours
from openmae.model import MaskedAutoencoder, ViT
from openmae.version import __version__

if TYPE_CHECKING:  # they need torchvision, which takes a while and which few models need
    from openmae.transfer.detector import Detector
    from openmae.transfer.segmenter import Segmenter

Model: TypeAlias = "MaskedAutoencoder | Classifier | Encoder | Neighbours | Segmenter | Detector"

LINKS: dict[Task, Link] = {"classification": "log", "multi-label": "log odds", "regression": "none"}
"""How nearest neighbours give their votes, by the task: as a classifier would, whose scores readers take a softmax or a
sigmoid of."""

TRAINED_WELL = "give a model whose training went well"
"""What to do about weights that are not numbers, where they are to be used as they are."""
_LEARN_LABELS = ("finetune", "segment", "detect")  # jobs, as provenance names them


@dataclass(frozen=True)
class Loaded:
    """A model and what travels with it."""

    model: Model
    statistics: Statistics
    info: dict[str, Any]
    name: str

    @property
    def encoder(self) -> ViT:
        """The ViT, which all kinds have."""
        return self.model.encoder

    @property
    def autoencoder(self) -> MaskedAutoencoder:
        """The model that pre-training left. Raises UserError where it has no decoder any more."""
        if isinstance(self.model, Encoder):
            raise UserError(
                f"{self.name} holds an encoder alone, without the decoder that fills in patches",
                "give a run folder, or "
                "a file that has the decoder too (of Meta's, one with 'full' or 'visualize' in its name)",
            )
        if not isinstance(self.model, MaskedAutoencoder):
            raise UserError(
                f"{self.name} was fine-tuned and has no decoder, so it cannot fill in patches",
                f"give the run that it was fine-tuned from ({self.info['provenance'].get('model') or 'not stated'})",
            )
        return self.model

    @property
    def classifier(self) -> Answering:
        """The model that fine-tuning left, or a probe, or nearest neighbours. Raises UserError where it answers
        nothing, or does not say what its outputs stand for."""
        if not isinstance(self.model, Answering):
            if self.outlines is not None:
                raise UserError(
                    f"{self.name} outlines what is in an image ({self.outlines}), and has no class for a whole one",
                    "give a run of openmae finetune",
                )
            raise UserError(
                f"{self.name} is pre-trained and has not learnt any labels",
                f"openmae finetune {self.name} DATA --out RUN; segment or detect where DATA has masks or boxes",
            )
        if self.info["class_names"] is None or self.info["task"] is None:
            raise UserError(f"{self.name} does not say what its outputs stand for", "give a run of openmae finetune")
        return self.model

    @property
    def segmenter(self) -> "Segmenter":
        """The model that learnt a class for every pixel. Raises UserError where it is none."""
        from openmae.transfer.segmenter import Segmenter

        if not isinstance(self.model, Segmenter):
            raise UserError(
                f"{self.name} has learnt no classes of pixels", f"openmae segment {self.name} DATA --out RUN"
            )
        return self.model

    @property
    def detector(self) -> "Detector":
        """The model that learnt where objects are. Raises UserError where it is none."""
        from openmae.transfer.detector import Detector

        if not isinstance(self.model, Detector):
            raise UserError(f"{self.name} has learnt no objects", f"openmae detect {self.name} DATA --out RUN")
        return self.model

    @property
    def outlines(self) -> str | None:
        """What `openmae segment` or `openmae detect` left: "segmentation" or "detection"; None of other models."""
        return {"segmenter": "segmentation", "detector": "detection"}.get(self.info.get("kind", ""))

    @property
    def encoder_saw_labels(self) -> bool:
        """Whether labels may have changed the encoder; of a bank of neighbours, that which it was made with."""
        if isinstance(self.model, Neighbours):
            origin = self.info["provenance"].get("pre-training") or {}
            return origin.get("job") in _LEARN_LABELS
        return isinstance(self.model, Classifier) or self.outlines is not None

    def check_numbers(self, advice: str) -> None:
        """Raises UserError for weights of a training that went astray: a detector of such finds nothing and says so of
        every image, and every step from them would be dropped."""
        for name, weight in self.model.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError(f"{self.name} has weights that are not numbers ({name})", advice)

    def reading(self, asked: Reading) -> "Loaded":
        """The model for images that are read as its own were, but as is asked."""
        pixels = self.statistics.pixels
        pixels = replace(pixels, reading=pixels.reading.but(asked))
        return replace(self, statistics=replace(self.statistics, pixels=pixels))

    @property
    def licence(self) -> str:
        """Of the weights, in a few words."""
        return self.info.get("licence") or "not stated"

    @property
    def origin(self) -> str:
        """What a user should know of weights that somebody else trained, in a line; empty for a run's own."""
        provenance = self.info["provenance"]
        stated = self.info.get("licence")
        said = [f"licence of these weights: {stated or 'not stated'}"] if stated or "format" in provenance else []
        said += [
            f"assumed, since nothing says it: {', '.join(found)}" for found in [provenance.get("assumed")] if found
        ]
        return "; ".join(said)


def model_json(
    model: Model,
    statistics: Statistics,
    provenance: dict[str, Any],
    *,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """What model.json says: kind, architecture, input statistics, what the outputs stand for, where the weights come
    from, their licence.

    licence: of the weights that this one began from; they belong to whoever trained them, so it is null until they
    say.
    """
    return {
        "format": 1,
        "openmae": __version__,
        "kind": "autoencoder" if isinstance(model, MaskedAutoencoder) else type(model).__name__.lower(),
        "architecture": model.architecture.to_dict() if isinstance(model, MaskedAutoencoder) else model.arguments(),
        "statistics": statistics.to_dict(),
        "task": task,
        "class_names": None if class_names is None else list(class_names),
        "provenance": {key: shown(value) if isinstance(value, str) else value for key, value in provenance.items()},
        "licence": licence,
    }


def held_out_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What may travel with weights of the images that they learnt from: by what those are known that were held out, and
    the seed that chose them; {} where it says nothing of the kind. Neither says where images lie, or what they show."""
    wanted = (("held_out", str), ("seed", int))
    return {name: provenance[name] for name, kind in wanted if type(provenance.get(name)) is kind}


def say_origin(loaded: Loaded, console: Console) -> None:
    """The licence of weights that somebody else trained, and what had to be assumed of them."""
    if loaded.origin:
        heads = "; `num_heads` says otherwise" if "attention heads" in loaded.origin else ""
        console.print(with_flags(f"{loaded.name}: {loaded.origin}{heads}"), style="yellow", soft_wrap=True)
