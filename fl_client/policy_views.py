"""Augmented views of a site's images, as features of the frozen backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.backbone import load_backbone
from fl_client.device import choose_device
from fl_client.extract import forward
from fl_client.folding import fold_batch_norm
from fl_client.images import Pixels, resize_shorter
from fl_client.policy_files import policy_digest, views
from fl_client.policy_space import AugmentationPolicy
from fl_client.site import Site
from protocol.spec import Spec

BATCH = 8
"""Views in a forward pass; the last ones of a request are padded, and requests are small."""


class PolicyViews:
    """What makes features of augmented images.

    Parameters
    ----------
    site : Site
        Whose images; each is decoded once and kept resized.
    spec : Spec
        Backbone and preprocessing.
    device : str or None
        Where to compute; None chooses.
    seed : int
        Of all augmentation. What a view looks like depends on it, the policy, the image and the
        view's number only: neither on what was made before nor on names and order of files.
    """

    def __init__(self, site: Site, spec: Spec, device: str | None, seed: int) -> None:
        self._site, self._spec, self._seed = site, spec, seed
        self._device = choose_device(device)
        self._model: torch.nn.Module | None = None
        self._resized: dict[int, tuple[Pixels, bytes]] = {}

    def features(
        self, policy: AugmentationPolicy, pairs: Sequence[tuple[int, int]]
    ) -> NDArray[np.float32]:
        """Return the features [k, m] of k views.

        Parameters
        ----------
        policy : AugmentationPolicy
            How to augment.
        pairs : sequence of (int, int)
            Index of an image, and the number of the view of it.

        Raises
        ------
        DataError
            If an image cannot be read.
        WeightsError
            If the backbone's weights are missing.
        """
        if self._model is None:
            self._model = fold_batch_norm(load_backbone(self._spec, self._device))
        made = self._views(policy, pairs)
        found = np.empty((len(pairs), self._spec.features), np.float32)
        crop = self._spec.preprocess.crop
        for start in range(0, len(pairs), BATCH):
            size = min(BATCH, len(pairs) - start)
            batch = np.zeros((BATCH, crop, crop, 3), np.uint8)  # one shape, as in `extract`
            for place in range(size):
                batch[place] = next(made)
            values = forward(self._model, batch, self._spec, self._device)[:size]
            found[start : start + size] = values.cpu().numpy()
        return found

    def _views(
        self, policy: AugmentationPolicy, pairs: Sequence[tuple[int, int]]
    ) -> Iterator[Pixels]:
        transform, digest = views(policy, self._spec.preprocess.crop), policy_digest(policy)
        for row, number in pairs:
            pixels, content = self._image(row)
            chance = f"{self._seed} {digest} {number} ".encode() + content
            drawn = hashlib.sha256(chance).digest()[:4]
            transform.set_random_seed(int.from_bytes(drawn, "little"))
            yield transform(image=pixels)["image"]

    def _image(self, row: int) -> tuple[Pixels, bytes]:
        if row not in self._resized:
            item, preprocess = self._site.images[row], self._spec.preprocess
            resized = np.asarray(resize_shorter(item.pixels(preprocess.window), preprocess))
            self._resized[row] = resized, item.content_digest()
        return self._resized[row]
