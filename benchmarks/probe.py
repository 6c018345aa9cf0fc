"""What the probe costs, and whether its heads agree with scikit-learn.

python benchmarks/probe.py [heads] [epochs] [agreement] [--rounds 5] [--init RUN] [--data FOLDER ...]

heads: time of 60 heads trained together (4 views x 3 normalisations x 5 rates) against one head, and of the whole probe
(choice on four fifths, the winner again on everything, test) with 60 heads and with one. Features are random, 7,000 and
2,500 of width 192, as of a vit_tiny on Imagenette; their values do not change the time. Then the command with stored
features, from its start to its end: the embedded images, demo:vit, 60 heads and one.
epochs: 90 epochs of a linear probe over cached features against 90 through the frozen encoder (vit_tiny, 224 px,
Imagenette). The pass through the encoder is timed over the first images and extrapolated.
agreement: the chosen head of `preset=fast` beside scikit-learn's L-BFGS on the very same features, with the L2 strength
that is best on the same held-out fifth, and our own L-BFGS; needs --init, an encoder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mimsuite.config.folder import conf_dir
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.evaluation.features.views import Features, pool_features
from mimsuite.evaluation.probes.linear import fit_heads, probe_matrix
from mimsuite.evaluation.probes.logistic import linear_probe
from mimsuite.evaluation.probes.measure import read_features
from mimsuite.evaluation.probes.task import LabelTask
from mimsuite.masked.normalization import Normalize
from mimsuite.models import ViTConfig, ViTModel
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.probe import LinearRecipe, read_probe, read_recipe
from mimsuite.settings.views import View

DATA = Path(__file__).resolve().parents[2] / "shared/data"
TRAIN, TEST, WIDTH, CLASSES = 7000, 2500, 192, 10
TIMED = 512  # images of the pass that is extrapolated


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=("heads", "epochs", "agreement", []))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--init")
    parser.add_argument("--image-size", default="auto")
    parser.add_argument("--data", nargs="*", default=[str(DATA / "imagenette-224"), str(DATA / "cifar10-jpeg")])
    given = parser.parse_args()
    parts = given.parts or ["heads", "epochs"] + ["agreement"] * (given.init is not None)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.device}")
    if "heads" in parts:
        heads(given.rounds, given.device)
    if "epochs" in parts:
        epochs(given.rounds, given.device)
    if "agreement" in parts:
        for data in given.data:
            agreement(given.init, data, given.image_size)


def config(**values: object) -> DictConfig:
    """The probe's configuration."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("probe", [f"{k}={v}" for k, v in values.items()])


def fast() -> LinearRecipe:
    """The default recipe."""
    return read_recipe(config(init="x", out="x"))


def random_features(n: int, seed: int) -> dict[View, Features]:
    """Four layers' features, the first of which tells the classes apart."""
    g = torch.Generator().manual_seed(seed)
    labels, ids = torch.randint(0, CLASSES, (n,), generator=g), torch.arange(n) + 10**6 * seed
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7))
    xs = [torch.randn(n, WIDTH, generator=g) + 0.2 * centres[labels] * (layer == 3) for layer in (3, 6, 9, 12)]
    return {View(3 * i + 3, "mean"): Features(x, labels, ids, str(i)) for i, x in enumerate(xs)}


def medians(rounds: int, device: str, **tasks: Callable[[], object]) -> dict[str, float]:
    """Seconds of each, the rounds taking turns; one round before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def heads(rounds: int, device: str) -> None:
    """60 heads against one."""
    train, test = random_features(TRAIN, 0), random_features(TEST, 1)
    first = next(iter(train))
    sixty = fast()
    one = replace(sixty, norms=("batchnorm",), lrs=(0.1,))
    labels = train[first].labels
    assert labels is not None
    task, everything = LabelTask("classes", CLASSES, labels, labels), torch.ones(TRAIN, dtype=torch.bool)
    xs = {view: features.x for view, features in train.items()}
    alone = {first: xs[first]}
    found = medians(
        rounds,
        device,
        sixty=lambda: fit_heads(xs, everything, task, sixty, device=device),
        one=lambda: fit_heads(alone, everything, task, one, device=device),
        probe_sixty=lambda: probe_matrix(train, test, sixty, device=device),
        probe_one=lambda: probe_matrix({first: train[first]}, {first: test[first]}, one, device=device),
    )
    count = len(xs) * len(sixty.norms) * len(sixty.lrs)
    for words, many, single in (("training", "sixty", "one"), ("whole probe", "probe_sixty", "probe_one")):
        print(
            f"{words:12} {count} heads {found[many]:.2f} s, one head {found[single]:.2f} s, "
            f"ratio {found[many] / found[single]:.2f}"
        )

    with tempfile.TemporaryDirectory() as folder:
        common = ["init=demo:vit", f"out={folder}/out", "baselines=false", "overwrite=true"]
        single = ["layers=last", "preset.norms=[batchnorm]", "preset.lrs=[0.1]"]

        def command(*keys: str) -> None:
            line = [sys.executable, "-m", "mimsuite.tasks.probe", *common, "pool=mean", *keys]
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL)

        found = medians(rounds, device, many=command, single=lambda: command(*single))
    print(
        f"command      60 heads {found['many']:.1f} s, one head {found['single']:.1f} s, "
        f"ratio {found['many'] / found['single']:.2f}"
    )


def epochs(rounds: int, device: str) -> None:
    """Cached features against the frozen encoder."""
    index = open_data(str(DATA / "imagenette-224"))
    size = (224, 224)
    torch.manual_seed(0)
    encoder = ViTModel(ViTConfig(hidden_size=WIDTH, num_attention_heads=3, intermediate_size=768)).eval().to(device)
    normalize = Normalize(index.mean, index.std, 255).to(device)
    samples = index.records("train")

    def encode() -> None:
        some = samples.take(np.arange(TIMED))
        workers = auto_workers()
        with torch.inference_mode():
            for batch in eval_loader(index, some, image_size=size, batch=128, workers=workers, labels=True):
                pool_features(encoder.forward_features(normalize(batch.images.to(device))), "mean").cpu()

    train = random_features(TRAIN, 0)
    first = next(iter(train))
    labels = train[first].labels
    assert labels is not None
    task, everything = LabelTask("classes", CLASSES, labels, labels), torch.ones(TRAIN, dtype=torch.bool)
    recipe = replace(fast(), norms=("batchnorm",), lrs=(0.1,), epochs=90)
    found = medians(
        rounds,
        device,
        encode=encode,
        cached=lambda: fit_heads({first: train[first].x}, everything, task, recipe, device=device),
    )
    once = found["encode"] * TRAIN / TIMED
    print(f"one pass of {TRAIN} images, from {TIMED}: {once:.0f} s ({TIMED / found['encode']:.0f} images/s)")
    print(f"90 epochs: through the encoder {90 * once:.0f} s, over cached features {found['cached']:.2f} s")
    print(
        f"ratio {90 * once / found['cached']:.0f}; with the one pass counted {90 * once / (found['cached'] + once):.1f}"
    )


def agreement(init: str, data: str, image_size: str) -> None:
    """Our chosen head beside L-BFGS on the same features."""
    keys = {"init": f"'{init}'", "data": f"'{data}'", "out": "x", "image_size": image_size, "baselines": "false"}
    (compared,) = read_features(read_probe(config(**keys)), "cpu")
    train, test = ({v: part.features(v) for v in compared.views} for part in (compared.train, compared.test))
    began = time.perf_counter()
    found = probe_matrix(train, test, fast())
    seconds, view = time.perf_counter() - began, found.best.view
    exact = linear_probe(train[view], test[view])
    scaler = StandardScaler().fit(train[view].x.double().numpy())
    x, other = (scaler.transform(part[view].x.double().numpy()) for part in (train, test))
    y, z = train[view].labels, test[view].labels
    assert y is not None
    assert z is not None
    theirs = LogisticRegression(C=1 / (exact.strength * len(y)), max_iter=2000).fit(x, y.numpy())
    top1 = found.scores.metrics["top1"]
    print(
        f"{Path(data).name}, {init}: best of {len(found.held_out)} heads {view}, {found.best.norm}, {found.best.lr:g}"
    )
    print(
        f"  {len(z):,} test images: matrix {top1:.4f} ({seconds:.1f} s), L-BFGS {exact.top1:.4f}, scikit-learn "
        f"{theirs.score(other, z.numpy()):.4f} (L2 {exact.strength:g})"
    )


if __name__ == "__main__":
    main()
