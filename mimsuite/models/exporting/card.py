"""The model card, `README.md`: what the weights are, how they were trained, how to use them, how they were checked.

Texts of users (names of classes and data) are escaped: they can neither format the page nor add links or HTML to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mimsuite.config.yaml_files import read_yaml
from mimsuite.data.fingerprint import count_images
from mimsuite.data.storage import read_object
from mimsuite.data.tar import to_text
from mimsuite.models.exporting.check import ALLOWED, Comparison
from mimsuite.models.exporting.exported import Exported
from mimsuite.models.exporting.targets import CARD_TAG, PICTURE
from mimsuite.models.exporting.usage import Loading, usage
from mimsuite.words import WEIGHT_NAMES

VALUES = (
    "image_size",
    "channels",
    "steps",
    "epochs",
    "batch",
    "lr",
    "layer_decay",
    "label_fraction",
    "precision",
    "seed",
)
GROUPS = ("objective", "mask", "augment", "optim", "schedule")
HIDDEN = ("base_lr", "base_batch", "fused")  # of the optimizer: `lr` is what follows from them
OF_TRAINING = ("perf/", "optim/")  # metrics that tell nothing about the weights
LIBRARIES = {  # as the hub names them
    "timm": "timm",
    "jax": "jax",
    "keras": "keras-hub",
    "flax": "transformers",
    "onnx": "onnx",
    "pt2": "pytorch",
}
LONGEST = 200  # characters of a text of a user
MOST_CLASSES = 1000  # in the table of the card


@dataclass(frozen=True)
class RunFacts:
    """What a run folder tells about the training of its weights.

    Attributes:
        config: `config.yaml`.
        summary: `summary.json`.
        environment: `environment.json`.
        samples: images per split, where `data.json` has them.
        picture: the last sheet of reconstructions, or None.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    picture: Path | None = None


def read_run(folder: Path, *, picture: bool) -> RunFacts:
    """Reads a run folder; what it does not have stays empty.

    Raises:
        InputError: a damaged file.
    """
    fix = "restore the file"
    config = OmegaConf.to_container(read_yaml(folder / "config.yaml", fix), resolve=False)
    summary, environment, data = (
        read_object(file, fix) if (file := folder / name).is_file() else {}
        for name in ("summary.json", "environment.json", "data.json")
    )
    sheets = sorted((folder / "pictures").glob("step_*.png")) if picture else []
    named = {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}
    return RunFacts(named, summary, environment, count_images(data), sheets[-1] if sheets else None)


@dataclass(frozen=True)
class CardFacts:
    """What the card says beside the training.

    Attributes:
        title: name of the folder or repository.
        target: the format.
        loading: how it is loaded.
        comparisons: of the file and the model.
    """

    title: str
    target: str
    loading: Loading
    comparisons: Sequence[Comparison]


def make_card(exported: Exported, facts: CardFacts, run: RunFacts | None) -> str:
    """The text of the card; `run` is None for weights that are not in the folder of a run."""
    run = run or RunFacts()
    parts = [
        front_matter(exported, facts),
        f"# {plain(facts.title)}",
        introduction(exported, facts, run),
        "## Use\n\n" + usage(facts.target, exported, facts.loading),
        "## Training\n\n" + training(run),
        *metrics(run),
        *([f"## Reconstructions\n\n![Reconstructions of validation images]({PICTURE})"] if run.picture else []),
        *classes(exported),
        "## Check\n\n" + check(facts),
        "## Licence\n\nTo be filled in by the owner of the weights, here and as `license` in the first lines of this "
        "file. The licence of the training data may restrict it.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(exported: Exported, facts: CardFacts) -> str:
    """What the hub reads; fixed words only."""
    task = "image-classification" if exported.outputs == ("logits",) else "image-feature-extraction"
    library = facts.loading.library.partition(" ")[0] if facts.target == "hf" else LIBRARIES[facts.target]
    lines = [f"library_name: {library}", f"pipeline_tag: {task}", "license: unknown  # to be filled in", "tags:"]
    return "\n".join(["---", *lines, CARD_TAG, f"- {exported.model.config.model_type}", "---"])


def introduction(exported: Exported, facts: CardFacts, run: RunFacts) -> str:
    """One sentence on what it is."""
    count = sum(parameter.numel() for parameter in exported.model.parameters())
    what = {"logits": "A classifier", "reconstruction": "A masked image model"}.get(exported.outputs[0], "An encoder")
    task = {"pretrain": "pretrained without labels", "finetune": "trained with labels"}.get(
        str(run.summary.get("task"))
    )
    trained = "" if task is None else f", {task} by mimsuite {plain(run.summary.get('mimsuite', ''))}"
    return (
        f"{what} of the family {plain(exported.model.config.model_type)} with {count / 1e6:,.2f} million "
        f"parameters in float32{trained}."
    )


def training(run: RunFacts) -> str:
    """Data and recipe, as `config.yaml` has them."""
    if not run.config:
        return "Not known: the weights were not in the folder of a training run."
    config, summary = run.config, run.summary
    rows = [("data", names_of(config.get("data")) or "the emoji-64 images of mimsuite")]
    rows += [(f"images, {split}", f"{count:,}") for split, count in run.samples.items()]
    rows += [("started from", names_of(config["init"]))] if config.get("init") else [("started from", "random weights")]
    rows += [(name, shown(config[name])) for name in VALUES if config.get(name) is not None]
    rows += [(f"{name} done", f"{summary[name]:,}") for name in ("steps", "images") if name in summary]
    rows += [(f"{name} spent", f"{summary[name]:,}") for name in ("seconds",) if name in summary]
    rows += [(name, node(config[name])) for name in GROUPS if isinstance(config.get(name), dict)]
    versions = run.environment.get("libraries") or {}
    rows += [("device", str(run.environment["device"]))] if "device" in run.environment else []
    rows += [("torch", str(versions["torch"]))] if "torch" in versions else []
    return table(("", ""), rows)


def metrics(run: RunFacts) -> list[str]:
    """The last metrics; nothing where there are none."""
    found = run.summary.get("metrics")
    if not isinstance(found, dict) or not found:
        return []
    rows = [
        (name, f"{value:.4g}")
        for name, value in found.items()
        if isinstance(value, int | float) and not name.startswith(OF_TRAINING)
    ]
    return ["## Metrics\n\nLast values; accuracies are fractions.\n\n" + table(("metric", "value"), rows)]


def classes(exported: Exported) -> list[str]:
    """The names of a classifier's outputs; nothing for others."""
    if exported.outputs != ("logits",):
        return []
    names = list(exported.model.config.id2label.items())
    rows = [(str(number), name) for number, name in names[:MOST_CLASSES]]
    left = len(names) - MOST_CLASSES
    more = f"\n\nAnd {left:,} more, in `config.json` of the model." if left > 0 else ""
    return ["## Classes\n\n" + table(("output", "class"), rows) + more]


def check(facts: CardFacts) -> str:
    """How the file was compared with the model."""
    rows = [(str(c.batch), f"{c.image_size[0]} x {c.image_size[1]}", f"{c.difference:.1e}") for c in facts.comparisons]
    return (
        f"Read back by {plain(facts.loading.library)} and compared with the original on random images; allowed is a "
        f"difference of {ALLOWED:g}.\n\n" + table(("batch", "pixels", "largest difference"), rows)
    )


def node(content: Mapping[str, Any]) -> str:
    """A group of the config on one line: the name of its class and its values."""
    name = str(content.get("_target_", "")).rpartition(".")[2]
    values = [
        f"{key}={shown(value)}"
        for key, value in content.items()
        if not str(key).startswith("_") and key not in HIDDEN and value is not None
    ]
    return f"{name}: {', '.join(values)}" if values else name


def names_of(value: Any) -> str:
    """What `data` or `init` names, without the folders that it lies in: they tell about a machine, not the model."""
    several = value if isinstance(value, list) else [value]
    return ", ".join(str(one) if _is_public(one) else Path(str(one)).name for one in several if one is not None)


def _is_public(value: Any) -> bool:
    return str(value).startswith((*WEIGHT_NAMES, "timm:"))


def shown(value: Any) -> str:
    """A value of the config as a user writes it."""
    return json.dumps(value).replace('"', "") if isinstance(value, list | dict | bool) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with every cell escaped."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: Any) -> str:
    """A text of a user on one line, not too long; characters that mean something to Markdown or HTML as numbers."""
    one_line = " ".join(to_text(str(text)).split())
    cut = one_line if len(one_line) <= LONGEST else one_line[: LONGEST - 3] + "..."
    readable = "".join(character if character.isprintable() else "?" for character in cut)
    return re.sub(
        r"[^\w ,.:=()+/%-]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)", lambda found: f"&#{ord(found[0])};", readable
    )
