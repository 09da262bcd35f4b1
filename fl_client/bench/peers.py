"""Two others that turn images into histograms: the package vdna, and the obvious few lines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from scipy.stats import entropy
from torchvision.transforms import v2

from fl_client.site import ImageItem
from protocol.spec import Spec

Rows = NDArray[np.float64]


def vdna_of(
    images: Sequence[ImageItem],
    spec: Spec,
    model: torch.nn.Module,
    device: torch.device,
    *,
    batch_size: int,
    workers: int,
    all_layers: bool,
) -> Callable[[], object]:
    """Return a call that makes vdna's histograms of images, with the backbone of a spec.

    vdna's own networks would be downloaded, so it is given this one; all else is vdna's: its
    loader, its loop, its histograms of as many bins as the spec's.

    Parameters
    ----------
    images, spec, model, device
        Image files, and the network, on the device.
    batch_size, workers
        Images a batch, and processes that decode.
    all_layers
        Whether the outputs of all blocks are counted, position by position, as vdna's own networks
        do; else only the features that the spec counts.

    Raises
    ------
    ImportError
        If vdna is not installed.
    """
    from vdna.networks import FeatureExtractionModel
    from vdna.utils.settings import DataSettings, ExtractionSettings, NetworkSettings
    from vdna.vdnas import get_vdna

    crop = spec.preprocess.crop
    layers: dict[str, torch.Tensor] = {}
    blocks = _blocks(model) if all_layers else {}

    def features_of(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        layers.clear()
        handles = [
            block.register_forward_hook(lambda _m, _i, out, name=name: layers.update({name: out}))
            for name, block in blocks.items()
        ]
        values = model(batch.contiguous(memory_format=torch.channels_last))  # [k, m]
        for handle in handles:
            handle.remove()
        return {**layers, "features": values[:, :, None, None]}

    with torch.inference_mode():
        widths = {
            name: values.shape[1]
            for name, values in features_of(torch.zeros(1, 3, crop, crop, device=device)).items()
        }
    ranges = {
        kind: {name: dict.fromkeys(range(width), edge) for name, width in widths.items()}
        for kind, edge in (("mins_per_neuron", -6.0), ("maxs_per_neuron", 6.0))
    }
    network = FeatureExtractionModel(
        NetworkSettings(
            list(spec.preprocess.mean), list(spec.preprocess.std), widths, (crop, crop)
        ),
        ExtractionSettings(
            device=str(device),
            batch_size=batch_size,
            num_workers=workers,
            verbose=False,
            n_sample_images=0,
        ),
        ranges,
    )
    network.get_features = features_of
    settings = DataSettings([str(item.path) for item in images], "center", shuffle_files=False)

    def run() -> object:
        made = get_vdna(f"histogram-{spec.bins}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.fill_vdna(network, settings)
        return made.get_all_neurons_dists()

    return run


def obvious_features(
    images: Sequence[ImageItem], spec: Spec, model: torch.nn.Module
) -> NDArray[np.float32]:
    """Return features one image after the other, float32 [n, m], as one would first write it."""
    preprocess = spec.preprocess
    steps = v2.Compose(
        [
            v2.Resize(preprocess.resize, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(preprocess.crop),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(preprocess.mean), list(preprocess.std)),
        ]
    )
    device = next(model.parameters()).device
    rows = []
    for item in images:
        view = steps(Image.open(item.path).convert("RGB"))[None].to(device)  # [1, 3, crop, crop]
        with torch.no_grad():
            rows.append(model(view)[0].cpu().numpy())
    return np.stack(rows)


def obvious_histogram(features: NDArray[np.float32], spec: Spec) -> Rows:
    """Return histograms, one ``numpy.histogram`` a feature, float64 [m, b]."""
    lower, upper = spec.lower_array, spec.upper_array
    rows = [
        np.histogram(np.clip(column, low, high), spec.bins, (low, high))[0] / len(features)
        for column, low, high in zip(features.T, lower, upper, strict=True)
    ]
    return np.array(rows)


def obvious_distances(sites: Sequence[Rows]) -> Rows:
    """Return the bKLD of all pairs, one ``scipy.stats.entropy`` a pair, float64 [k, k]."""
    return np.array(
        [
            [entropy(target, softmax(source, axis=1), axis=1).mean() for target in sites]
            for source in sites
        ]
    )


def _blocks(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return a network's blocks by name: what stages and `blocks` of timm's models consist of."""
    stages = ("blocks.", "layer", "stages.")
    return {
        name.replace(".", "_"): module
        for name, module in model.named_modules()
        if name.startswith(stages) and name.count(".") == (2 if name.startswith("b") else 1)
    }
