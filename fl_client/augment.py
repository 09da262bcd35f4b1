"""Images for fine-tuning: the spec's own view, augmented by albumentations while training."""

from __future__ import annotations

from collections.abc import Sequence

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset

from fl_client.images import Pixels, resize_shorter
from fl_client.site import ImageItem
from fl_client.training import Labels
from protocol.spec import Preprocess, Spec


def training_augmentation(preprocess: Preprocess, seed: int) -> A.Compose:
    """Return the default policy: crop, flip, small shifts and turns, brightness and contrast.

    Parameters
    ----------
    preprocess : Preprocess
        The spec's crop in pixels and normalisation.
    seed : int
        Of the augmentation's own random numbers.
    """
    return A.Compose(
        [
            A.RandomCrop(preprocess.crop, preprocess.crop),
            A.HorizontalFlip(p=0.5),
            A.Affine(translate_percent=(-0.06, 0.06), scale=(0.9, 1.1), rotate=(-10, 10), p=0.7),
            A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
            A.Normalize(preprocess.mean, preprocess.std),
        ],
        seed=seed,
    )


def evaluation_view(preprocess: Preprocess) -> A.Compose:
    """Return the spec's centre crop and normalisation, nothing random."""
    return A.Compose(
        [
            A.CenterCrop(preprocess.crop, preprocess.crop),
            A.Normalize(preprocess.mean, preprocess.std),
        ]
    )


class SiteImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A site's images as network inputs with their labels.

    Parameters
    ----------
    items : sequence of ImageItem
        The site's images.
    labels : ndarray
        What is learnt of each, see `fl_client.training.Labels`.
    spec : Spec
        Size and normalisation.
    transform : albumentations.Compose
        From resized pixels to float32 [crop, crop, 3].

    Notes
    -----
    Resized pixels are kept in memory: fine-tuning reads every image once an epoch.
    """

    def __init__(
        self, items: Sequence[ImageItem], labels: Labels, spec: Spec, transform: A.Compose
    ) -> None:
        self._items, self._spec, self._transform = items, spec, transform
        self._labels = torch.from_numpy(labels)
        self._resized: dict[int, Pixels] = {}

    def reseed(self, seed: int) -> None:
        """Start the augmentation's random numbers anew: what ran before must not matter."""
        self._transform.set_random_seed(seed)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one input, float32 [3, crop, crop], and its label."""
        if index not in self._resized:
            preprocess = self._spec.preprocess
            resized = resize_shorter(self._items[index].pixels(preprocess.window), preprocess)
            self._resized[index] = np.asarray(resized)
        view = self._transform(image=self._resized[index])["image"]  # [crop, crop, 3]
        return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))), self._labels[index]
