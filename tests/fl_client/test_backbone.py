from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import timm
import torch
from safetensors.torch import save_file

from fl_client.backbone import create_model, load_backbone, weights_digest
from fl_client.device import choose_device
from fl_client.folding import fold_batch_norm
from fl_client.fusing import FusedConv, fuse
from protocol.errors import ConfigError, WeightsError
from protocol.spec import Preprocess, Spec, Weights, load_spec


def test_the_offline_default_has_the_weights_that_its_specs_name() -> None:
    for name in ("lite0-100", "lite0-1000"):
        spec = load_spec(name)
        model = load_backbone(spec)
        assert weights_digest(model) == spec.weights.sha256
        assert not model.training
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 1280)


def test_weights_by_name_and_by_position(tmp_path: Path) -> None:
    full = timm.create_model("resnet10t", num_classes=5)
    state = full.state_dict()
    torch.save(state, tmp_path / "named.pt")
    placed = {str(number): value for number, value in enumerate(state.values())}
    torch.save({"state_dict": placed}, tmp_path / "placed.pt")
    save_file(state, tmp_path / "named.safetensors")
    digests = {
        weights_digest(create_model("resnet10t", f"file:{path}")) for path in tmp_path.iterdir()
    }
    assert len(digests) == 1


def test_missing_and_wrong_weights(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"^weights file .*/no\.pt does not exist: put it there"):
        create_model("resnet10t", "file:no.pt")
    with pytest.raises(WeightsError, match=r"^unknown source of weights 'x:y': take pypi:"):
        create_model("resnet10t", "x:y")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"bad\.pt cannot be read \("):
        create_model("resnet10t", "file:bad.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "few.pt")
    with pytest.raises(WeightsError, match=r"does not fit the backbone \(1 tensors, the model has"):
        create_model("resnet10t", "file:few.pt")
    other = spec.model_copy(
        update={"weights": Weights(source=spec.weights.source, sha256="0" * 64)}
    )
    with pytest.raises(WeightsError, match="install the very weights"):
        load_backbone(other)
    with pytest.raises(ConfigError, match=r"^unknown backbone 'resnet999': take a timm model"):
        create_model("resnet999", "timm")
    wide = spec.model_copy(update={"features": 3})
    with pytest.raises(ConfigError, match="resnet10t has 512 features, not 3"):
        load_backbone(wide)


def test_the_width_is_what_the_backbone_gives(tmp_path: Path) -> None:
    name = "mobilenetv3_small_050"
    preprocess = Preprocess(resize=32, crop=32, mean=[0] * 3, std=[1] * 3)
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pt")
    weights = Weights(source=f"file:{tmp_path / 'weights.pt'}")
    recipe = Spec(
        name="m", backbone=name, weights=weights, preprocess=preprocess, features=1024, bins=2
    )
    model = load_backbone(recipe)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1024)
    assert timm.create_model(name, num_classes=0).num_features == 288
    with pytest.raises(ConfigError, match="mobilenetv3_small_050 has 1024 features, not 288"):
        load_backbone(recipe.model_copy(update={"features": 288}))


def test_no_hub_is_an_error_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(httpx, "head", refuse)
    told = (
        "weights of resnet34.a1_in1k are neither in timm's cache nor to be had from its hub (no "
        "route to host): download model.safetensors of timm/resnet34.a1_in1k where there is "
        "internet, and give --weights FILE, or put it as resnet34.a1_in1k.safetensors into a "
        "folder and name that in FEDPRINT_WEIGHTS"
    )
    with pytest.raises(WeightsError) as caught:
        create_model("resnet34.a1_in1k", "timm")
    assert str(caught.value) == told


@pytest.mark.parametrize("name", ["resnet10t", "densenet121", "mobilenetv3_small_050"])
def test_folding_keeps_the_function(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    before = weights_digest(model)
    folded = fold_batch_norm(model)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = model(inputs), folded(inputs)
    assert torch.allclose(expected, found, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert weights_digest(model) == before

    def norms(network: torch.nn.Module) -> int:
        return sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())

    assert norms(folded) < norms(model)


@pytest.mark.parametrize(
    ("name", "clipped"), [("resnet10t", 7), ("tf_efficientnet_lite0", 33), ("densenet121", 1)]
)
def test_fusing_keeps_every_bit_or_nearly(name: str, clipped: int) -> None:
    torch.manual_seed(0)
    folded = fold_batch_norm(timm.create_model(name, num_classes=0).eval())
    fused = fuse(folded, 64)
    found = [module for module in fused.modules() if isinstance(module, FusedConv)]
    assert sum(conv._activation[0] != "none" for conv in found) >= clipped
    inputs = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, answer = folded(inputs), fused(inputs)
    assert float((answer - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_what_cannot_be_fused_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(torch.nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.conv, self.act, self.by = torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), by

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.conv(images)
            return self.act(found) + self.by * found  # the activation is not all that reads it

    model, images = Twice(0.5).eval(), torch.randn(1, 3, 8, 8)
    fused = fuse(model, 8)
    assert isinstance(fused.conv, FusedConv)
    assert isinstance(fused.act, torch.nn.ReLU)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), model(images))
    with monkeypatch.context() as patch:  # a PyTorch whose call does something else
        patch.setattr(FusedConv, "forward", lambda self, inputs: self.conv(inputs) + 1)
        assert fuse(model, 8) is model
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fuse(model, 8) is model


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device(None).type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match=r"^unknown device 'gpu': take cpu, cuda, cuda:N or mps"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="is not available here: leave --device out or take cpu"):
        choose_device("cuda:99")
