"""timm's cache and hub: what they have of a backbone's weights, and what to do without them."""

from __future__ import annotations

import timm

from fl_client.weights import WEIGHTS_FOLDER
from protocol.errors import WeightsError

HUB_SECONDS = 10.0  # one knock at the hub's door; its own client would try for a minute


def require_hub(backbone: str) -> None:
    """See that weights are in timm's cache, or that the hub answers, before its client tries long.

    Raises
    ------
    WeightsError
        If neither is so.
    """
    import httpx
    from huggingface_hub import constants

    if cached(backbone):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise no_hub(backbone, error) from error


def cached(backbone: str) -> bool:
    """Tell whether timm's cache on this machine has a backbone's weights; no network is used."""
    from huggingface_hub import try_to_load_from_cache

    model = hub_model(backbone)
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(model, file), str) for file in files if model)


def hub_model(backbone: str) -> str:
    """Return the hub's name of a backbone's weights, as in ``timm/resnet34.a1_in1k``; or empty."""
    config = timm.get_pretrained_cfg(backbone)
    return str(getattr(config, "hf_hub_id", None) or "")


def no_hub(backbone: str, error: Exception) -> WeightsError:
    """Return the error that says what to do where the hub is out of reach."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].strip(" .")[:120]
    model = hub_model(backbone)
    what = f"model.safetensors of {model}" if model else "them"
    return WeightsError(
        f"weights of {backbone} are neither in timm's cache nor to be had from its hub "
        f"({reason}): download {what} where there is internet, and give --weights FILE, or put it "
        f"as {backbone}.safetensors into a folder and name that in {WEIGHTS_FOLDER}"
    )
