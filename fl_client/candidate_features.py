"""Features of a site's images by a candidate architecture, computed once and only where needed."""

from __future__ import annotations

import contextlib

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from fl_client.candidates import Candidate, load_candidate
from fl_client.data_digest import known_digest
from fl_client.extract import BATCH_SIZE, extract
from fl_client.feature_files import keep_features, used
from fl_client.site import Site
from protocol.errors import DataError
from protocol.files import sha256_hex


class CandidateFeatures:
    """The site's own cache of a candidate's features; it grows, and never leaves the site.

    Parameters
    ----------
    site : Site
        Whose images; the cache lies in its state folder, beside that of the spec's backbone.
    candidate : Candidate
        What to compute them with.
    device : torch.device
        Where to compute.
    batch_size : int
        Images a forward pass.
    workers : int or None
        See `fl_client.extract.extract`.
    """

    def __init__(
        self,
        site: Site,
        candidate: Candidate,
        device: torch.device,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
    ) -> None:
        self._site, self._candidate, self._device = site, candidate, device
        self._batch_size, self._workers = batch_size, workers
        key = f"{candidate.recipe.digest} {known_digest(site)} {device.type} {batch_size}"
        self._path = site.state / "features" / f"{sha256_hex(key.encode())[:32]}.safetensors"

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of some images; those that were computed before are read.

        Parameters
        ----------
        rows : ndarray of int64, shape [k]
            Indices into `site.images`.

        Returns
        -------
        ndarray of float32, shape [k, m]
            One centre view an image.

        Raises
        ------
        DataError
            If an image cannot be read, features are not finite, or the state folder cannot be
            written.
        """
        have, features = self._read()
        missing = np.setdiff1d(rows, have)
        if len(missing):
            features = np.concatenate([features, self._computed(missing)])
            have = np.concatenate([have, missing])
            self._write(have, features)
        place = np.empty(len(self._site.images), np.int64)
        place[have] = np.arange(len(have))
        chosen: NDArray[np.float32] = features[place[rows]]
        return chosen

    def _computed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found = extract(
            [self._site.images[row] for row in rows],
            self._candidate.recipe,
            device=self._device,
            batch_size=self._batch_size,
            workers=self._workers,
            want_features=True,
            backbone=load_candidate(self._candidate, self._device),
        ).features
        assert found is not None
        if not np.isfinite(found).all():
            raise DataError(f"{self._candidate.name} gave NaN or infinite features: leave it out")
        return found

    def _read(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Read the cache; a damaged or unfitting file counts as absent."""
        with contextlib.suppress(OSError, SafetensorError, KeyError):
            stored = safetensors.numpy.load_file(self._path)
            rows, features = stored["rows"], stored["features"]
            fits = features.shape == (len(rows), self._candidate.recipe.features)
            if fits and np.isin(rows, np.arange(len(self._site.images))).all():
                used(self._path)
                return rows, features
        return np.zeros(0, np.int64), np.zeros((0, self._candidate.recipe.features), np.float32)

    def _write(self, rows: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        data = safetensors.numpy.save({"rows": rows, "features": features})
        try:
            keep_features(self._path, data)
        except OSError as error:
            raise DataError(
                f"state folder {self._path.parent} cannot be written ({error.strerror}): name "
                "another with --state"
            ) from error
