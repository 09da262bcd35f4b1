"""The architecture scenario at a site: a search among candidates on its own images."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from fl_client.architecture_result import Search
from fl_client.candidates import prepare
from fl_client.efforts import ladder
from fl_client.extract import BATCH_SIZE
from fl_client.halving import Budget, Trial, successive_halving
from fl_client.progress import show_progress
from fl_client.site import Site
from fl_client.trials import Trials
from protocol.errors import ConfigError
from protocol.files import file_digest
from protocol.fingerprint import LIMIT
from protocol.presets import Preset
from protocol.spec import Window
from protocol.statement import utc_now


def search(
    site: Site,
    preset: Preset,
    budget: Budget,
    device: torch.device,
    *,
    size: int = 0,
    window: Window | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: bool = False,
) -> Search:
    """Search for the architecture that suits a site's images.

    Parameters
    ----------
    site : Site
        Whose images.
    preset : Preset
        Candidates and baseline.
    budget : Budget
        Rounds, and seconds of trials.
    device : torch.device
        Where to compute.
    size : int
        Crop in pixels; 0 gives each network its own.
    window : (float, float), optional
        Intensities in scanner units that become black and white.
    seed, batch_size, workers
        See `fl_client.trials.Trials`.
    progress : bool
        Show how far it is.

    Raises
    ------
    ConfigError, WeightsError
        If a candidate cannot be used; before any is tried.
    DataError
        If the site's images cannot be used.
    """
    candidates = prepare(preset.candidates, preset.sources, size, window)
    efforts = ladder(budget.rounds)
    trials = Trials(site, candidates, efforts, device, seed, batch_size, workers)
    count = len(candidates)  # and once more a round for the baseline, if it is out
    total = sum(min(count, budget.places(count, round_) + 1) for round_ in range(budget.rounds))
    shown = show_progress("architectures", total, "trials") if progress else nullcontext()
    with shown as advance:

        def trial(name: str, round_: int) -> Trial:
            found = trials(name, round_)
            if advance is not None:
                advance(1)
            return found

        race = successive_halving(preset.candidates, trial, budget, keep=[preset.baseline])
    by_name = {candidate.name: candidate for candidate in candidates}
    return Search(site, preset, budget, seed, by_name, race, trials.measured, utc_now())


def target_of(release: Path) -> str:
    """Return the id of a site's task: the SHA-256 of its release's file.

    Raises
    ------
    ConfigError
        If that is no file of a release.
    """
    if release.suffix != ".safetensors" or not release.is_file():
        raise ConfigError(f"{release} is no release: give NAME.safetensors as it left the site")
    if release.stat().st_size > LIMIT:
        raise ConfigError(f"{release} is larger than any release: give the file of the fingerprint")
    return file_digest(release)
