"""Images per second of the whole extraction against the bare forward pass.

Both run in this process, in turns, with the same threads, batch size and backbone; the ratio is
the median over the turns, so that a busy machine disturbs both alike. The bare forward pass is
timm's model, channels last; `ratio_to_folded_forward` compares with the faster form of it that the
extraction itself uses (batch normalisation folded into the convolutions).

    python benchmarks/extract.py --images 512 --side 128
    python benchmarks/extract.py --backbone resnet34 --crop 224 --device cuda --batch-size 256

For a backbone without weights at hand the weights are random numbers in a scratch file: speed does
not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from fl_client.backbone import create_model, load_backbone, weights_digest
from fl_client.device import choose_device
from fl_client.extract import Extraction, extract, forward
from fl_client.folding import fold_batch_norm
from fl_client.images import make_views
from fl_client.site import ImageItem
from protocol.spec import Calibration, Preprocess, Spec, Weights, load_spec


def write_images(folder: Path, count: int, side: int, seed: int = 0) -> list[ImageItem]:
    """Write PNG files as smooth as photographs: noise over a few octaves."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        picture = np.zeros((side, side, 3))
        for octave in (4, 16, 64):
            coarse = rng.integers(0, 256, (min(octave, side), min(octave, side), 3), np.uint8)
            layer = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            picture += np.asarray(layer) / 3
        path = folder / f"{number:05d}.png"
        Image.fromarray(picture.astype(np.uint8)).save(path)
        items.append(ImageItem(path, 0, path.name))
    return items


def scratch_spec(folder: Path, backbone: str, crop: int) -> Spec:
    """Return a spec of any timm model, with random weights and arbitrary edges."""
    model = timm.create_model(backbone, num_classes=0)
    torch.save(model.state_dict(), folder / "weights.pt")
    source = f"file:{folder / 'weights.pt'}"
    recipe = Spec(
        name=backbone,
        backbone=backbone,
        weights=Weights(source=source),
        preprocess=Preprocess(
            resize=round(crop * 8 / 7),
            crop=crop,
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
        features=model.num_features,
        bins=100,
    )
    width = np.zeros(recipe.features)
    return recipe.with_edges(
        width,
        width + 3,
        weights_sha256=weights_digest(create_model(backbone, source)),
        calibration=Calibration(images=["none"], count=1),
    )


def bare_rate(
    model: torch.nn.Module, inputs: torch.Tensor, device: torch.device, repeats: int
) -> float:
    """Return images per second of the forward pass alone, on inputs that are already there."""
    half = device.type == "cuda"
    with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
        started = time.perf_counter()
        for _ in range(repeats):
            model(inputs)
        _wait(device)
        return repeats * len(inputs) / (time.perf_counter() - started)


def phases(
    items: list[ImageItem], model: torch.nn.Module, spec: Spec, device: torch.device, size: int
) -> dict[str, float]:
    """Return seconds an image of each phase, one after another and on one decoding thread."""
    from fl_client.histogram import BinCounter

    batch = np.zeros((size, spec.preprocess.crop, spec.preprocess.crop, 3), np.uint8)
    seconds = {}
    started = time.perf_counter()
    for place, item in enumerate(items[:size]):
        batch[place] = make_views(item.pixels(), spec, [0])[0]
    seconds["decode and resize, one thread"] = (time.perf_counter() - started) / min(
        size, len(items)
    )
    raw = torch.from_numpy(batch)
    for name in ("transfer", "forward with transfer", "histogram"):
        counter = BinCounter(spec, device)
        values = forward(model, batch, spec, device)
        _wait(device)
        started = time.perf_counter()
        if name == "transfer":
            raw.to(device)
        elif name == "histogram":
            counter.add(values)
        else:
            forward(model, batch, spec, device)
        _wait(device)
        seconds[name] = (time.perf_counter() - started) / size
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Run the comparison; return its figures."""
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = (
            scratch_spec(folder, options.backbone, options.crop)
            if options.backbone
            else load_spec(options.spec)
        )
        items = write_images(folder, options.images, options.side)
        model = load_backbone(spec, device)
        size, crop = options.batch_size, spec.preprocess.crop
        inputs = torch.zeros((size, 3, crop, crop), device=device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        repeats = max(1, options.images // size)

        def run(part: list[ImageItem]) -> Extraction:
            return extract(
                part,
                spec,
                device=device,
                batch_size=size,
                workers=options.workers or None,
                backbone=model,
            )

        bare_rate(model, inputs, device, 2)
        run(items[:size])
        folded = fold_batch_norm(model)
        bare, fast, whole = [], [], []
        for _ in range(options.turns):
            bare.append(bare_rate(model, inputs, device, repeats))
            fast.append(bare_rate(folded, inputs, device, repeats))
            result = run(items)
            whole.append(result.views / result.seconds)
        ratios = [w / b for w, b in zip(whole, bare, strict=True)]
        return {
            "spec": spec.name,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "batch_size": size,
            "side": options.side,
            "images": options.images,
            "forward_images_per_second": statistics.median(bare),
            "extraction_images_per_second": statistics.median(whole),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "folded_forward_images_per_second": statistics.median(fast),
            "ratio_to_folded_forward": statistics.median(
                w / f for w, f in zip(whole, fast, strict=True)
            ),
            "seconds_per_image": phases(items, folded, spec, device, size),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spec", default="lite0-100")
    parser.add_argument("--backbone", help="any timm model instead of a spec")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--side", type=int, default=128, help="of the PNG files, in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
