"""Transformers as backbones: any size that patches fill, tokens, weights by other names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
from fixtures_networks import write_weights
from fixtures_sites import write_classes
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fl_client import backbones
from fl_client.backbone import create_model, load_backbone, weights_digest
from fl_client.backbone_shape import pooling_of, set_pooling, set_size
from fl_client.backbones import TRIED, describe, lines_of
from fl_client.calibrate import calibrate, make_recipe
from fl_client.commands import register
from fl_client.extract import extract, prepare
from fl_client.learner import Learner
from fl_client.site import read_site
from fl_client.weights import source_of
from protocol.errors import ConfigError, WeightsError
from protocol.orders import Order
from protocol.spec import Spec, load_spec, parse_spec

APP = typer.Typer()
register(APP)

VITS = {"test_vit": "token", "test_vit2": "avg", "test_vit3": "map"}  # of 0.3 million weights
SIZE = 64  # pretrained with 160, in patches of 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), *VITS)


@pytest.fixture(autouse=True)
def _folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("public"), {"faces": 15, "digits": 15})


@pytest.fixture(scope="module")
def vit(weights: Path, public: Path) -> Spec:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPRINT_WEIGHTS", str(weights))
        recipe = make_recipe(name="v", backbone="test_vit", weights="timm", bins=8, crop=SIZE)
        return calibrate(public, recipe, device="cpu")


@pytest.mark.parametrize("name", VITS)
def test_features_are_those_of_timm_at_another_size(
    name: str, weights: Path, public: Path, tmp_path: Path
) -> None:
    """Against timm's own way: made for the size, weights stretched while they are loaded."""
    recipe = make_recipe(name="v", backbone=name, weights="timm", bins=8, resize=70, crop=SIZE)
    assert recipe.pooling == VITS[name]
    spec = calibrate(public, recipe, device="cpu")
    site = read_site(public, tmp_path)
    found = extract(site.images, spec, device="cpu", want_features=True)

    file = {"file": str(weights / f"{name}.safetensors")}
    peer = timm.create_model(
        name, pretrained=True, num_classes=0, img_size=SIZE, pretrained_cfg_overlay=file
    ).eval()
    views = []
    for item in site.images:
        image = Image.open(item.path).convert("RGB")  # 30 x 24 pixels
        pixels = image.resize((70 * 30 // 24, 70), Image.Resampling.BICUBIC)
        left = round((pixels.width - SIZE) / 2)
        views.append(np.asarray(pixels.crop((left, 3, left + SIZE, 3 + SIZE))))
    inputs = torch.tensor(np.stack(views)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(peer.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        expected = peer((inputs - mean) / std).numpy()
    assert found.features is not None
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-4)
    assert spec.weights.sha256 == weights_digest(create_model(name, "timm"))  # at any size

    assert spec.lower_array.min() < 0 < spec.upper_array.max()  # features of either sign
    inside = np.clip(found.features, spec.lower_array, spec.upper_array)
    edges = np.linspace(spec.lower_array, spec.upper_array, spec.bins + 1)  # [b + 1, m]
    assert found.counts is not None
    for column in range(spec.width):
        own, _ = np.histogram(inside[:, column].astype(float), edges[:, column])
        assert (
            np.abs(np.cumsum(own - found.counts[column])).max() <= 1
        )  # but for a value on an edge
    again = extract(site.images, spec, device="cpu", workers=2, batch_size=16)
    np.testing.assert_array_equal(again.counts, found.counts)


def test_a_transformer_is_not_copied_and_keeps_its_function(vit: Spec) -> None:
    model = load_backbone(vit)
    network = prepare(model, vit, torch.device("cpu"))._model
    shared = {weight.data_ptr() for weight in model.parameters()}
    assert {weight.data_ptr() for weight in network.parameters()} == shared
    inputs = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(network(inputs), model(inputs), rtol=0, atol=0)


def test_what_a_backbone_cannot_take() -> None:
    model = create_model("test_vit", "timm")
    told = "test_vit cuts images into patches of 16 pixels, which do not fill 100: take 96"
    with pytest.raises(ConfigError) as caught:
        set_size(model, "test_vit", 100)
    assert str(caught.value) == told
    fixed = timm.create_model("cait_xxs24_224", num_classes=0)
    told = "cait_xxs24_224 takes images of 224 pixels, not 256 (timm has no other size for it): "
    with pytest.raises(ConfigError) as caught:
        set_size(fixed, "cait_xxs24_224", 256)
    assert str(caught.value) == f"{told}take 224"
    set_size(fixed, "cait_xxs24_224", 224)
    with pytest.raises(ConfigError) as caught:
        make_recipe(name="v", backbone="test_vit3", weights="timm", bins=8, pooling="avg")
    told = "test_vit3 pools its features by map, not avg: leave --pooling out"
    assert str(caught.value) == told


def test_the_class_token_or_the_mean_of_the_patches(vit: Spec) -> None:
    model = create_model("test_vit", "timm")
    set_size(model, "test_vit", SIZE)
    inputs = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        tokens = model.forward_features(inputs)
        torch.testing.assert_close(model(inputs), tokens[:, 0])
        set_pooling(model, "test_vit", "avg")
        torch.testing.assert_close(model(inputs), tokens[:, 1:].mean(dim=1))
    assert pooling_of(model) == "avg"
    mean = vit.model_copy(update={"pooling": "avg"})
    assert mean.digest != vit.digest
    assert pooling_of(load_backbone(mean)) == "avg"
    assert '"pooling":"token"' in vit.as_json
    assert parse_spec(vit.as_json).digest == vit.digest
    for shipped in ("lite0-100", "resnet34-100"):
        assert "pooling" not in load_spec(shipped).model_dump()


def test_weights_as_others_publish_them(weights: Path, tmp_path: Path) -> None:
    own = load_file(weights / "test_vit.safetensors")
    expected = weights_digest(create_model("test_vit", "timm"))

    def saved(state: dict[str, torch.Tensor], name: str) -> str:
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
        return source_of(str(tmp_path / name))

    trunk = {f"visual.trunk.{k}": v for k, v in own.items() if not k.startswith("head.")}
    clip = {**trunk, "visual.head.proj.weight": torch.zeros(8, 64), "text.a": torch.zeros(3)}
    assert weights_digest(create_model("test_vit", saved(clip, "clip.safetensors"))) == expected

    openai = {f"visual.{_as_openai(key)}": value for key, value in own.items() if "head" not in key}
    openai["visual.class_embedding"] = own["cls_token"][0, 0]
    openai["visual.positional_embedding"] = own["pos_embed"][0]
    openai |= {"visual.proj": torch.zeros(64, 8), "positional_embedding": torch.zeros(77, 9)}
    assert weights_digest(create_model("test_vit", saved(openai, "openai.safetensors"))) == expected
    dinov2 = {**own, "mask_token": torch.zeros(1, 64)}
    assert weights_digest(create_model("test_vit", saved(dinov2, "dinov2.safetensors"))) == expected

    half = {key: value.to(torch.bfloat16) for key, value in own.items()}
    rounded = create_model("test_vit", saved(half, "half.safetensors"))
    assert {weight.dtype for weight in rounded.parameters()} == {torch.float32}
    assert weights_digest(rounded) != expected

    small = {**own, "patch_embed.proj.weight": own["patch_embed.proj.weight"][..., :8, :8]}
    coarse = {**own, "pos_embed": own["pos_embed"][:, :37]}
    renamed = {f"x{number}": value for number, value in enumerate(own.values())}
    without = {key: value for key, value in own.items() if key != "norm.weight"}
    for bad in (small, coarse, renamed, without):  # timm would stretch the first two
        with pytest.raises(WeightsError, match=r"does not fit the backbone \(\d+ tensors, the "):
            create_model("test_vit", saved(bad, "bad.safetensors"))


def _as_openai(name: str) -> str:
    """Return the name that OpenAI's CLIP has for a tensor of timm's transformer."""
    swaps = (
        *(
            ("norm.", "ln_post."),
            ("patch_embed.proj", "conv1"),
            ("blocks.", "transformer.resblocks."),
        ),
        *(
            (".norm1", ".ln_1"),
            (".norm2", ".ln_2"),
            ("qkv.", "in_proj_"),
            ("attn.proj", "attn.out_proj"),
        ),
        *(("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")),
        *(("cls_token", "class_embedding"), ("pos_embed", "positional_embedding")),
    )
    for old, new in swaps:
        name = name.replace(old, new)
    return name


def test_where_a_file_of_weights_is_found(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = weights / "test_vit.safetensors"
    assert source_of(str(inside)) == "file:test_vit.safetensors"
    assert source_of("hub") == "timm"
    digest = weights_digest(create_model("test_vit", "file:/elsewhere/test_vit.safetensors"))
    monkeypatch.delenv("FEDPRINT_WEIGHTS")
    assert source_of(str(inside)) == f"file:{inside}"
    assert weights_digest(create_model("test_vit", f"file:{inside}")) == digest
    monkeypatch.chdir(weights)
    assert source_of("test_vit.safetensors") == f"file:{inside}"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"from its hub \(HF_HUB_OFFLINE is set\): download mod"):
        create_model("test_vit", "timm")


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
def test_a_site_trains_on_a_transformer(vit: Spec, recipe: str, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "site", {"a": 12, "b": 12})
    learner = Learner(read_site(folder), vit, recipe, "cpu", seed=0)  # type: ignore[arg-type]
    settings = {"run": "r", "arm": "alone", "epochs": 1, "batch_size": 8, "learning_rate": 0.0}
    order = Order(spec=vit, recipe=recipe, seed=0, **settings)  # type: ignore[arg-type]
    before = learner.start(0)
    after = learner.train_round(order.model_copy(update={"server_round": 1}), before)
    assert after.keys() == before.keys()
    assert any(not np.array_equal(after[name], before[name]) for name in before)
    assert all(np.isfinite(value).all() for value in after.values())
    assert 0 <= learner.train_alone(order)["val_balanced_accuracy"] <= 1


def test_commands(public: Path, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        result = CliRunner().invoke(APP, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    out = tmp_path / "v.json"
    words = ["--backbone", "test_vit", "--crop", SIZE, "--pooling", "avg", "--name", "v"]
    said = run("spec", "calibrate", public, *words, "--device", "cpu", "--out", out)
    assert said.startswith("v: 64 features, 100 bins, calibrated on 30 images in ")
    assert (load_spec(out).pooling, load_spec(out).preprocess.resize) == ("avg", 67)  # of 95 %
    run("fingerprint", public, "--spec", out, "--name", "s", "--device", "cpu", "--out", tmp_path)
    assert (tmp_path / "s.safetensors").is_file()


def test_backbones_that_were_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ("tf_efficientnet_lite0", "vit_small_patch14_dinov2.lvd142m")
    assert set(some) < set(TRIED)
    assert all(timm.get_pretrained_cfg(name) is not None for name in TRIED)
    monkeypatch.setattr(backbones, "TRIED", {name: TRIED[name] for name in some})
    listed = CliRunner().invoke(APP, ["spec", "backbones", "--json", str(tmp_path / "b.json")])
    entries = {e["backbone"]: e for e in json.loads((tmp_path / "b.json").read_text())["backbones"]}
    assert tuple(entries) == some
    assert all(f" {name} " in listed.stdout for name in some)
    dino = entries["vit_small_patch14_dinov2.lvd142m"]
    assert (dino["features"], dino["pooling"], dino["patch"]) == (384, "token", 14)
    assert dino["licence"] == "apache-2.0"
    assert dino["weights"] == "hub:timm/vit_small_patch14_dinov2.lvd142m"
    assert dino["calibrate"] == (
        "fedprint spec calibrate FOLDER --backbone vit_small_patch14_dinov2.lvd142m --resize 224 "
        "--crop 224 --bins 100 --name vit_small_patch14_dinov2 --out FILE"
    )
    assert entries["tf_efficientnet_lite0"]["here"]
    told = lines_of(describe("test_vit"))
    assert "64, of the class token" in told
    assert "in patches of 16" in told
    assert describe("test_vit").here  # in the folder of weights
    with pytest.raises(ConfigError, match=r"^unknown backbone 'vit_x': take a timm model, as `fed"):
        describe("vit_x")
