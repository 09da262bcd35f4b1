"""Speed of fingerprinting, against the forward pass alone, vdna, and the obvious few lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from fl_client.backbone import load_backbone
from fl_client.bench.material import arrays, jpegs, random_spec
from fl_client.bench.peers import obvious_distances, obvious_features, obvious_histogram, vdna_of
from fl_client.device import choose_device
from fl_client.extract import BATCH_SIZE, extract, prepare
from fl_client.folding import fold_batch_norm
from fl_client.histogram import BinCounter
from fl_client.site import ImageItem
from fl_client.streams import FEW
from fl_client.viewing import chunks, write_views
from protocol.benchmark import Findings, Options, Ratio, ratio, seconds
from protocol.spec import Spec, load_spec
from strategies.bkld import bkld_matrix

Calls = Mapping[str, Callable[[], object]]
ON_GPU = 256  # images a batch


def measure(options: Options) -> Findings:
    """Time lite0 at 160 px on a CPU, resnet34 at 224 px elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        return _Bench(options).measure()
    finally:
        torch.set_num_threads(before)


class _Bench:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = choose_device(options.device)
        cpu = self.device.type == "cpu"
        self.spec: Spec = (
            load_spec("lite0-100") if cpu else random_spec(options.scratch, "resnet34", 224)
        )
        self.model = load_backbone(self.spec, self.device)
        self.batch = options.pick(BATCH_SIZE if cpu else ON_GPU, FEW)
        self.ratios: dict[str, Ratio] = {}
        self.figures: dict[str, float] = {"threads": options.threads, "batch_size": self.batch}
        self.notes: list[str] = []

    def measure(self) -> Findings:
        pick = self.options.pick
        turns = self.options.turns
        self._of_forward(arrays(pick(12, 1) * self.batch, 28), turns)
        for side, batches in ((256, 12), (512, 6)):
            items = jpegs(self.options.scratch, pick(batches, 1) * self.batch, side)
            self._of_slower_stage(items, side, turns)
        files = jpegs(self.options.scratch / "256px", pick(64, 8), 256)
        self._over_vdna(files, min(turns, 3))
        self._over_obvious(files, min(turns, 3))
        return Findings(self.ratios, self.figures, self.notes)

    def extract(self, items: Sequence[ImageItem]) -> object:
        how = {"device": self.device, "batch_size": self.batch, "workers": self.workers}
        return extract(items, self.spec, backbone=self.model, **how)  # type: ignore[arg-type]

    @property
    def workers(self) -> int:
        return self.options.threads

    def _of_forward(self, items: Sequence[ImageItem], turns: int) -> None:
        n = len(items)
        times = _rounds(
            {
                "extraction": lambda: self.extract(items),
                "forward": partial(self._forward, self.model, n),
                "folded_forward": partial(self._forward, fold_batch_norm(self.model), n),
                "own_network": self._own_network(n),
            },
            turns,
        )
        self._note_rates(times, n, "28px_arrays")
        whole = "28 px arrays to counts"
        for name, of, what in (
            ("of_forward", "forward", f"timm's forward pass, batches of {self.batch}"),
            ("of_folded_forward", "folded_forward", "the same with batch norm folded"),
            ("of_own_network", "own_network", "the network as the extraction runs it"),
        ):
            self.ratios[name] = _ratio(times, of, "extraction", f"{what} / {whole}")
        self.figures["histogram_share"] = self._histogram_seconds() / _per(times["extraction"], n)

    def _of_slower_stage(self, items: Sequence[ImageItem], side: int, turns: int) -> None:
        n = len(items)
        times = _rounds(
            {
                "extraction": lambda: self.extract(items),
                "decoding": lambda: self._decode(items),
                "forward": partial(self._forward, self.model, n),
                "own_network": self._own_network(n),
            },
            turns,
        )
        self._note_rates(times, n, f"{side}px_jpeg")
        slower = [max(pair) for pair in zip(times["decoding"], times["forward"], strict=True)]
        both = [sum(pair) for pair in zip(times["decoding"], times["own_network"], strict=True)]
        end = "" if side == 256 else f"_{side}px"
        made = f"{side} px JPEG files to counts"
        self.ratios[f"of_slower_stage{end}"] = _ratio(
            {**times, "slower": slower},
            "slower",
            "extraction",
            f"the slower of decoding and timm's forward pass alone, all threads each / {made}",
        )
        if self.device.type == "cpu":
            self.ratios[f"of_both_stages{end}"] = _ratio(
                {**times, "both": both},
                "both",
                "extraction",
                f"decoding, then the extraction's own network, all threads each / {made}",
            )

    def _over_vdna(self, items: Sequence[ImageItem], turns: int) -> None:
        for name, all_layers, what in (
            ("over_vdna", True, "vdna's histograms of all blocks, as its own networks do"),
            ("over_vdna_last_layer", False, "vdna's histograms of the last layer only"),
        ):
            try:
                theirs = vdna_of(
                    items,
                    self.spec,
                    self.model,
                    self.device,
                    batch_size=self.batch,
                    workers=self.options.threads,
                    all_layers=all_layers,
                )
            except ImportError:
                self.notes.append(
                    "over_vdna is left out: `pip install --no-deps vdna` (and an OpenCV) first"
                )
                return
            self.ratios[name] = ratio(
                lambda: self.extract(items),
                theirs,
                turns if not all_layers else 1,
                f"{what}, same files, network, bins and threads / our extraction",
            )

    def _over_obvious(self, items: Sequence[ImageItem], turns: int) -> None:
        sites, images = self.options.pick(20, 3), self.options.pick(200, 20)
        rng = np.random.default_rng(0)
        low, high = self.spec.lower_array, self.spec.upper_array
        drawn = rng.uniform(low, high, (sites, images, len(low))).astype(np.float32)  # [k, n, m]
        self.ratios["over_obvious"] = ratio(
            lambda: self._histograms_and_distances(drawn),
            lambda: obvious_distances([obvious_histogram(each, self.spec) for each in drawn]),
            1,
            f"numpy.histogram a feature and scipy.stats.entropy a pair, {sites} sites of {images} "
            "images / the same with ours, from features to distances",
        )
        self.ratios["over_obvious_pipeline"] = ratio(
            lambda: self.extract(items),
            lambda: obvious_histogram(obvious_features(items, self.spec, self.model), self.spec),
            turns,
            "PIL, torchvision, timm one image at a time, numpy.histogram / 256 px JPEG files to "
            "counts",
        )

    def _histograms_and_distances(self, drawn: np.ndarray) -> object:
        rows = []
        for features in torch.from_numpy(drawn):
            counter = BinCounter(self.spec, torch.device("cpu"))
            counter.add(features)
            rows.append(counter.counts() / np.float32(len(features)))
        stacked = np.array(rows, np.float32)  # [k, m, b]
        return bkld_matrix(stacked, stacked)

    def _forward(self, model: torch.nn.Module, images: int) -> None:
        """Run batches that are already there, channels last; half precision on CUDA."""
        crop, half = self.spec.preprocess.crop, self.device.type == "cuda"
        inputs = torch.zeros((self.batch, 3, crop, crop), device=self.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=half):
            for _ in range(images // self.batch):
                model(inputs)
        self._wait()

    def _own_network(self, images: int) -> Callable[[], None]:
        """Return a call of the network as the extraction runs it, on views that are there."""
        network = prepare(self.model, self.spec, self.device)
        crop, threads = self.spec.preprocess.crop, self.options.threads
        size = FEW if self.device.type == "cpu" else self.batch
        views = torch.zeros((size, crop, crop, 3), dtype=torch.uint8, device=self.device)

        def alone() -> None:
            for _ in range(images // size):
                network(views, size)
            self._wait()

        def side_by_side() -> None:
            with ThreadPoolExecutor(threads, "", torch.set_num_threads, (1,)) as pool:
                list(pool.map(lambda _: network(views, size), range(images // size)))
            torch.set_num_threads(threads)

        return side_by_side if self.device.type == "cpu" else alone

    def _decode(self, items: Sequence[ImageItem]) -> None:
        crop = self.spec.preprocess.crop

        def write(part: Sequence[tuple[int, int]]) -> None:
            write_views(items, self.spec, part, np.empty((FEW, crop, crop, 3), np.uint8))

        views = [(index, 0) for index in range(len(items))]
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(write, chunks(views, FEW)))

    def _histogram_seconds(self) -> float:
        counter = BinCounter(self.spec, self.device)
        values = torch.rand(self.batch, self.spec.features, device=self.device)
        counter.add(values)
        started = time.perf_counter()
        for _ in range(50):
            counter.add(values)
        self._wait()
        return (time.perf_counter() - started) / (50 * self.batch)

    def _note_rates(self, times: Mapping[str, list[float]], images: int, of: str) -> None:
        for name, spent in times.items():
            self.figures[f"{name}_{of}_images_per_second"] = 1 / _per(spent, images)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _rounds(calls: Calls, turns: int) -> dict[str, list[float]]:
    """Time several calls in turns, after one call of each that is not counted."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def _ratio(times: Mapping[str, list[float]], theirs: str, ours: str, meaning: str) -> Ratio:
    return Ratio.over([b / a for a, b in zip(times[ours], times[theirs], strict=True)], meaning)


def _per(spent: list[float], images: int) -> float:
    return float(np.median(spent)) / images
