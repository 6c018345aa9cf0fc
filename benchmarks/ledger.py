"""The ledger: one JSON file per run in benchmarks/results, and the tables of benchmarks/RESULTS.md made of them.

python benchmarks/ledger.py add RUN [RUN ...] --machine A [--name NAME] [--pretrained INIT=ENTRY ...]
python benchmarks/ledger.py render
python benchmarks/ledger.py check

add reads run folders of pretrain, probe, finetune and evaluate. Where a run started from weights (`init=`), the run
that made them must be in the ledger already: it is found by the last component of its folder, or by --pretrained, where
ENTRY is the name of a ledger file, `random` (the folder holds untrained weights) or `unknown` (weights from elsewhere).
render replaces what stands between the two markers of RESULTS.md, and writes the rows that `mimsuite plan` cites into
the package. check says what is wrong with files and tables.

FLOPs are two per multiply-add; training on an image is counted as three forward passes of the objective (with MAE's
dropped patches and its decoder; with the classifier), also where layers are frozen; of the proof tables (proof.py) the
step itself is counted, with the passes of a teacher. What probes and evaluations compute
is not counted. Time is that of all starts of a run, validations included. Local paths are cut to their last component.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError

Entry = dict[str, Any]
HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- ledger: begin, made by `python benchmarks/ledger.py render` -->", "<!-- ledger: end -->"
TASKS = {"finetune": "Fine-tuning", "evaluate": "Evaluation", "probe": "Probes", "pretrain": "Pretraining"}
PATHS = ("data", "init", "out", "src", "images")
# Neither learning nor figures depend on these, or they have a column of their own.
ASIDE = {*PATHS, "seed", "steps", "epochs", "batch", "image_size", "model", "label_fraction", "experiment"} | {
    *("workers", "devices", "micro_batch", "val_every", "save_every", "resume", "overwrite"),
    *("online_probe", "baselines", "loader.val_limit"),
}
LABELLED = tuple(f"{split}/{name}" for split in ("test", "val") for name in ("top1", "map", "r2"))
FIGURES = {
    "pretrain": ("val/loss",),
    "probe": ("probe/top1", "probe/map", "probe/r2"),
    "finetune": LABELLED,
    "evaluate": (*LABELLED, "test/loss", "val/loss"),
}
BESIDE = {
    "pretrain": ("val/psnr", "probe/top1"),
    "probe": ("knn/top1", "random/probe/top1", "8x8/probe/top1", "shots1/top1", "shots5/top1", "shots10/top1"),
    "finetune": ("test/top5", "val/top1"),
    "evaluate": ("test/top5", "val/top5"),
}
ALIKE = (  # in all this the runs of one row agree
    *("task", "data", "label_fraction", "model", "start", "objective", "loss", "experiment", "recipe"),
    *("steps", "batch", "machine"),
)
OF_OTHERS = ("what", "model", "data", "result", "source")  # columns of what others published
KEYS = (
    *("name", "run", "command", "seed", "images", "epochs", "seconds", "flops", "before", "date", "device"),
    *("libraries", "figures", *ALIKE),
)
LINK = {"task", "data", "model", "recipe"}
CITED = HERE.parent / "mimsuite" / "runs" / "planning" / "ledger.json"  # the rows of this ledger that the package has
ABSOLUTE = re.compile(r"(?:^|[\s='\"`\[(,:]|file://)(?:/|~/)[A-Za-z_.]")


# --- from a run folder to an entry ------------------------------------------------------------------------------------


def add(
    run: Path,
    root: Path,
    machine: str,
    name: str | None = None,
    pretrained: Sequence[str] = (),
    flops: int | None = None,
) -> Path:
    """Writes the ledger file of a run, by default named by task, objective or start, family, data and seed.

    `flops` are those of training on an image, where the caller has counted them.

    Raises:
        InputError: a run that is not done, has no figure, or whose weights' origin is not known; a name that is taken.
    """
    from omegaconf import OmegaConf

    if machine not in (known := read(root / "machines.json")):
        raise InputError(
            f"machine {machine} is not in machines.json; describe it there, or use one of {', '.join(known)}"
        )
    summary = read(run / "summary.json")
    if summary["status"] != "done":
        raise InputError(f"{run} is {summary['status']}; only runs that are done enter the ledger")
    cfg = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(cfg, dict)
    task, environment = summary["task"], read(run / "environment.json")
    lines = cleaned((run / "overrides.txt").read_text().splitlines())
    log = (run / "train.log").read_text()
    start, before, word = started_from(cfg.get("init"), entries(root), dict(pair.split("=", 1) for pair in pretrained))
    model, per_image, objective = measured(run, task, cfg, summary, flops)
    images = int(summary.get("images") or summary["steps"] * (cfg.get("batch") or 0))
    epochs = re.findall(r"\(([\d.,]+) epochs?\)", log)
    figures = {k: v for k, v in summary["metrics"].items() if not k.startswith(("perf/", "optim/"))}
    loss = f"{cfg['objective'].get('loss')} of {cfg['objective'].get('target', 'pixels')}" if objective else None
    data = last(cfg["data"]) if cfg.get("data") else "emoji-64"
    entry: Entry = {
        "run": run.resolve().name,
        "task": task,
        "command": command(task, lines),
        "data": data,
        "label_fraction": cfg.get("label_fraction"),
        "model": model,
        "objective": objective,
        "loss": loss,
        "experiment": next((line.partition("=")[2] for line in lines if line.startswith("experiment=")), None),
        "recipe": [line for line in lines if decides(line)],
        "start": start,
        "seed": cfg.get("seed", 0),
        "steps": summary["steps"],
        "batch": cfg.get("batch") if summary["steps"] else None,
        "images": images,
        "epochs": float(epochs[-1].replace(",", "")) if epochs else None,
        "seconds": round(summary.get("seconds") or seconds(log)),
        "flops": None if per_image is None else {"per_image": per_image, "total": per_image * images},
        "before": before,
        "date": stamps(log)[-1][0].date().isoformat(),
        "machine": machine,
        "device": environment.get("device"),
        "libraries": {"mimsuite": environment["mimsuite"], "python": environment["python"], **environment["libraries"]},
        "figures": figures,
    }
    main_figure(entry)
    short, share = re.sub(r"-(jpeg|[0-9]+)$", "", data), labels(entry).replace(" %", "pct")
    words = [task, (objective or word).lower(), model["family"], short, share if "pct" in share else ""]
    name = name or f"{'_'.join(filter(None, words))}_seed{entry['seed']}"
    file = root / "results" / f"{name}.json"
    if file.exists() and read(file)["command"] != entry["command"]:
        raise InputError(f"{file.name} is there already, of another command; give --name, or remove it")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"name": name} | entry, indent=2) + "\n")
    return file


def last(path: str) -> str:
    """The last component of a path that names something: `c10` of `/runs/c10/weights`; an address as it is."""
    parts = [part for part in str(path).split("/") if part not in ("", ".", "..")]
    return path if "://" in path else next((p for p in reversed(parts) if not p.startswith("weights")), path)


def cleaned(overrides: Sequence[str]) -> list[str]:
    """Overrides without quotes and local folders, and without what goes on with or replaces another run."""
    lines = []
    for override in overrides:
        line = re.sub(r"['\"]", "", override)
        key, _, value = line.partition("=")
        if key in PATHS:
            part = re.search(r"/weights-\w+", value)  # of a run: its teacher, its best
            line = f"{key}={last(value)}{part[0] if part and '://' not in value else ''}"
        elif "://" not in value:
            line = re.sub(r"(?<=[=,\[:])(?:~|\.{1,2})?/(?:[^/,\]\s]+/)*", "", line)
        if key not in ("resume", "overwrite"):
            lines.append(line)
    return lines


def command(task: str, lines: Sequence[str]) -> str:
    """The command that these overrides were given to."""
    return " ".join(["mimsuite", task, *(shlex.quote(x) if re.search(r"[\s$&;|<>()*?]", x) else x for x in lines)])


def decides(line: str) -> bool:
    """Whether an override says how is learned, beyond model, data and length."""
    return line.partition("=")[0] not in ASIDE and not line.startswith(("logger", "callbacks."))


def stamps(log: str) -> list[tuple[datetime, str]]:
    """Time and text of the lines of a `train.log`."""
    found = re.findall(r"(?m)^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (.*)$", log)
    return [(datetime.fromisoformat(when), text) for when, text in found]


def seconds(log: str) -> float:
    """Seconds between the first and the last line of each start of a run, all starts together."""
    spans: list[list[datetime]] = []
    for when, text in stamps(log):
        if re.match(r"mimsuite \S+ \w+ ", text):
            spans.append([when, when])
        elif spans and not text.startswith("weights "):  # those are written before a start says its name
            spans[-1][1] = when
    return sum((end - begin).total_seconds() for begin, end in spans)


def started_from(init: str | None, known: Sequence[Entry], given: dict[str, str]) -> tuple[str, Entry, str]:
    """What a run started from, without a seed; the compute that went into it (None: not known); a word for it."""
    name = "" if init is None else last(init)
    wanted = "random" if init is None else given.get(name, "")
    if wanted == "random":
        return "random", {"entry": None, "flops": 0, "seconds": 0}, "random"
    if wanted == "unknown":
        return name, {"entry": None, "flops": None, "seconds": None}, name
    key, value = ("name", Path(wanted).name.removesuffix(".json")) if wanted else ("run", name)
    found = [entry for entry in known if entry["task"] in ("pretrain", "finetune") and entry[key] == value]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} trained runs of the ledger are called {value}, from which this run started; add it first, "
            f"or give --pretrained {name}=ENTRY, {name}=random or {name}=unknown"
        )
    entry, earlier = found[0], found[0]["before"]
    flops = None if earlier["flops"] is None else entry["flops"]["total"] + earlier["flops"]
    time = None if earlier["seconds"] is None else entry["seconds"] + earlier["seconds"]
    before = {"entry": entry["name"], "flops": flops, "seconds": time}
    start = unseeded(entry["name"]) + (", its teacher" if Path(str(init)).name == "weights-teacher" else "")
    return start, before, entry["objective"] or entry["start"]


def measured(
    run: Path, task: str, cfg: Entry, summary: Entry, flops: int | None = None
) -> tuple[Entry, int | None, str | None]:
    """The model, FLOPs of training on one image (None: no training), and the objective of a pretraining run.

    The network is built on torch's meta device from the `config.json` beside the weights: no memory, no arithmetic.
    """
    import torch

    from mimsuite.models import AutoConfig, AutoModelForImageClassification, AutoModelForMaskedImageModeling

    trains = task in ("pretrain", "finetune")
    folders = [run / "weights"] if trains else [Path(cfg["init"]) / "weights", Path(cfg["init"])]
    file = next((f / "config.json" for f in folders if (f / "config.json").is_file()), None)
    if file is None:
        raise InputError(f"{run}: no config.json in {folders[0]}, so the model is not known")
    config = AutoConfig.from_pretrained(
        file.parent, attn_implementation="eager"
    )  # fused attention would not be counted
    size = summary.get("image_size") or cfg.get("image_size")
    size = size if isinstance(size, list) else [size if isinstance(size, int) else config.image_size] * 2
    if hasattr(config, "image_size"):
        config.image_size = size[0] if size[0] == size[1] else size
    classifies = task == "finetune" or (task == "evaluate" and "Classification" in str(config.architectures))
    maker = AutoModelForImageClassification if classifies else AutoModelForMaskedImageModeling
    with torch.device("meta"):
        model = maker.from_config(config).eval()
        pixels = torch.empty(1, config.num_channels, *size)
    network = model.encoder if task == "probe" else model
    parameters = sum(p.numel() for p in network.parameters())
    text = f"{described(config)}, {'x'.join(map(str, size[:1] if size[0] == size[1] else size))} px"
    objective = objective_name(cfg, config) if task == "pretrain" else None
    about = {"family": config.model_type, "text": text, "parameters": parameters}
    if trains and flops is None:
        flops = 3 * forward_flops(model, pixels, cfg)
    return about, flops if trains else None, objective


def objective_name(cfg: Entry, config: Any) -> str:
    """What people call the objective of a pretraining run."""
    made = str(cfg["objective"].get("_target_", "MIMObjective")).rpartition(".")[2]
    if made != "MIMObjective":
        return made.removesuffix("Objective").lower()
    if cfg["objective"].get("mask_mode") == "sparse":
        return "sparse SimMIM"
    drops, hog = getattr(config, "mask_mode", "replace") == "drop", config.mim_target == "hog"
    return "MAE" if drops else "MaskFeat" if hog else "SimMIM"


def forward_flops(model: Any, pixels: Any, cfg: Entry) -> int:
    """FLOPs of the forward pass of a classifier, or of a masked image model's loss, on one image of the meta device."""
    import torch

    from mimsuite.masked.geometry import hidden_units
    from mimsuite.models.flops import FlopCounter

    with FlopCounter() as counter, torch.no_grad():
        if hasattr(model, "masked_loss"):
            unit, ratios = cfg["mask"]["unit"], cfg["mask"]["ratio"]
            grid = (pixels.shape[-2] // unit, pixels.shape[-1] // unit)
            mask = torch.empty(1, *grid, dtype=torch.bool, device="meta")
            counts = [hidden_units(mask.numel(), r) for r in (ratios if isinstance(ratios, list) else [ratios])]
            model.masked_loss(pixels, mask, round(statistics.mean(counts)), cfg["objective"]["loss"])
        else:
            model(pixels)
    return int(counter.total)


def described(config: Any) -> str:
    """Width and depth of a model."""
    if config.model_type == "vit":
        return f"ViT {config.hidden_size} wide, {config.num_hidden_layers} blocks, patch {config.patch_size}"
    if config.model_type == "cvt":
        return f"CvT {'-'.join(map(str, config.embed_dim))} wide, {'-'.join(map(str, config.depth))} blocks"
    factor = f" x{config.width_factor}" if config.width_factor != 1 else ""
    return f"BiT {'-'.join(map(str, config.hidden_sizes))}{factor} wide, {'-'.join(map(str, config.depths))} blocks"


# --- from entries to tables -------------------------------------------------------------------------------------------


def read(file: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def entries(root: Path) -> list[Entry]:
    """All ledger files, by name."""
    return [read(file) for file in sorted((root / "results").glob("*.json"))]


def unseeded(name: str) -> str:
    """A name without its seed."""
    return re.sub(r"_seed\d+", "", name)


def grouped(all_entries: Sequence[Entry]) -> list[list[Entry]]:
    """Runs that differ in nothing but the seed, sorted by it.

    Raises:
        InputError: two runs of one group with the same seed, which would pass for two.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(all_entries, key=lambda e: e["seed"]):
        key = json.dumps([entry[name] for name in ALIKE])
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        for one, other in itertools.pairwise(group):
            if one["seed"] == other["seed"]:
                raise InputError(f"{one['name']} and {other['name']} are one recipe with one seed; remove one")
    return [groups[key] for key in sorted(groups)]


def main_figure(entry: Entry) -> str:
    """The name of the figure that counts."""
    for name in FIGURES[entry["task"]]:
        if name in entry["figures"]:
            return name
    raise InputError(f"{entry['run']} has none of the figures {', '.join(FIGURES[entry['task']])}")


def labels(entry: Entry) -> str:
    """The share of the labels that a run saw."""
    share = entry["label_fraction"]
    return "none" if entry["task"] == "pretrain" else "all" if share in (None, 1) else f"{100 * share:g} %"


def spread(name: str, values: Sequence[float]) -> str:
    """A figure of one seed, or mean, standard deviation and range of several."""
    scale, unit, digits = 1.0, "", ".4f"
    if name.endswith(("top1", "top5", "/map")):
        scale, unit, digits = 100.0, " %", ".1f"
    elif name.endswith("psnr"):
        unit, digits = " dB", ".2f"
    shown = [f"{scale * value:{digits}}" for value in (statistics.mean(values), min(values), max(values))]
    if len(values) == 1:
        return f"{shown[0]}{unit}"
    return f"{shown[0]} ± {scale * statistics.stdev(values):{digits}}{unit} ({shown[1]} to {shown[2]})"


def both(own: Sequence[float | None], before: Sequence[float | None], show: Any) -> str:
    """`own + before`, means over a group."""
    mine, earlier = ("?" if None in values else show(statistics.mean(values)) for values in (own, before))  # type: ignore[type-var]
    if not any(value is None or value for value in before):
        return mine
    return earlier if None in own else f"{mine} + {earlier}"


def duration(time: float) -> str:
    """Seconds as minutes or hours."""
    return f"{time:.0f} s" if time < 120 else f"{time / 60:.0f} min" if time < 7200 else f"{time / 3600:.1f} h"


def row(group: Sequence[Entry], published: Sequence[Entry]) -> dict[str, str]:
    """The cells of one group."""
    one = group[0]
    main = main_figure(one)
    beside = [name for name in BESIDE[one["task"]] if name != main and all(name in e["figures"] for e in group)]
    words = [one["objective"] or "", f"`{one['experiment']}`" if one["experiment"] else ""]
    words.append(f"`{' '.join(one['recipe'])}`" if one["recipe"] else "")
    seeds = ", ".join(f"[{e['seed']}](results/{e['name']}.json)" for e in group)
    alike = {"model": one["model"]["text"], "recipe": " ".join(one["recipe"])}
    links = [p for p in published if p["link"] and all(alike.get(k, one.get(k)) == v for k, v in p["link"].items())]
    trains = one["flops"] is not None
    return {
        "data": one["data"],
        "labels": labels(one),
        "start": "" if one["task"] == "pretrain" and one["start"] == "random" else one["start"],
        "model": f"{one['model']['text']} ({one['model']['parameters'] / 1e6:.1f} M)",
        "recipe": ": ".join(w for w in (words[0], " ".join(filter(None, words[1:]))) if w) or "defaults",
        "seeds": f"one seed: {seeds}" if len(group) == 1 else f"{len(group)}: {seeds}",
        "steps": f"{one['steps']:,} of {one['batch']}" if trains else "",
        "images": f"{one['images']:,}" + (f" ({one['epochs']:g} epochs)" if one["epochs"] else "") if trains else "",
        "PFLOPs, own + before": both(
            [e["flops"] and e["flops"]["total"] for e in group],
            [e["before"]["flops"] for e in group],
            lambda flops: f"{flops / 1e15:#.3g}".rstrip("."),
        ),
        "time, own + before": both([e["seconds"] for e in group], [e["before"]["seconds"] for e in group], duration),
        "machine": f"{one['machine']}"
        + (f": {one['device']}".replace(" 1 threads", " 1 thread") if one["device"] else ""),
        "metric": f"{main} **{spread(main, [e['figures'][main] for e in group])}**"
        + (f" ({one['loss']})" if one["loss"] else ""),
        "other metrics": "; ".join(f"{name} {spread(name, [e['figures'][name] for e in group])}" for name in beside),
        "published": "; ".join(f"{p['figure']} ({p['source']})" for p in links),
    }


def table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Lines of a table, without columns that are empty throughout."""
    columns = [name for name in rows[0] if any(cells[name] for cells in rows)]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for cells in rows:
        yield f"| {' | '.join(cells[name].replace('|', chr(92) + '|') for name in columns)} |"


def rendered(root: Path) -> str:
    """What stands between the markers."""
    published, groups = read(root / "published.json"), grouped(entries(root))
    lines: list[str] = []
    for task, title in TASKS.items():
        if not (of_task := [group for group in groups if group[0]["task"] == task]):
            continue
        lines += [f"### {title}", "", *table([row(group, published) for group in of_task]), "", "```"]
        lines += [*(group[0]["command"] for group in of_task), "```", ""]
    if others := published_of(root):
        lines += ["### Published by others, for orientation: other data and other lengths", ""]
        lines += [*table([{k: p["figure" if k == "result" else k] for k in OF_OTHERS} for p in others]), ""]
    return "\n".join(lines)


def cited(root: Path) -> dict[str, Any]:
    """What `mimsuite plan` knows of the ledger: accuracies of probes and fine-tunings, and what they started from."""
    known = entries(root)
    by_name, rows = {entry["name"]: entry for entry in known}, []
    for entry in known:
        shown = {
            key: value for key, value in entry["figures"].items() if re.search(r"(probe|test)/(top1|map|r2)$", key)
        }
        if entry["task"] not in ("probe", "finetune") or not shown:
            continue
        before = by_name.get(entry["before"]["entry"], {})
        rows.append(
            {
                "name": entry["name"],
                "task": entry["task"],
                "data": entry["data"],
                "labels": labels(entry),
                "family": entry["model"]["family"],
                "model": entry["model"]["text"],
                "objective": before.get("objective"),
                "recipe": before.get("recipe", []),
                "epochs": before.get("epochs"),
                "figures": shown,
            }
        )
    data = {name: facts for name, facts in read(root / "datasets.json").items() if any(r["data"] == name for r in rows)}
    published = [
        {key: fact[key] for key in ("what", "model", "data", "figure", "source")} for fact in published_of(root)
    ]
    return {"data": data, "rows": rows, "published": published}


def published_of(root: Path) -> list[dict[str, Any]]:
    """What others published, and is not beside a row of ours."""
    return [fact for fact in read(root / "published.json") if not fact["link"]]


def split(page: str) -> tuple[str, str, str]:
    """The page before the begin marker, between the markers, and after."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError("RESULTS.md needs each marker of the ledger once")
    head, rest = page.split(BEGIN)
    middle, tail = rest.split(END)
    return head, middle, tail


def render(root: Path) -> None:
    """Writes the generated part of RESULTS.md; of the project's own ledger, docs/choosing.md and the plan's rows."""
    head, _, tail = split((root / "RESULTS.md").read_text())
    (root / "RESULTS.md").write_text(f"{head}{BEGIN}\n\n{rendered(root)}\n{END}{tail}")
    if root == HERE:
        CITED.write_text(json.dumps(cited(root), indent=1, ensure_ascii=False) + "\n")
        subprocess.run([sys.executable, str(HERE / "choices.py")], check=True)


def check(root: Path) -> list[str]:
    """What is wrong with the ledger; nothing, if all is well."""
    wrong, machines, known = [], read(root / "machines.json"), entries(root)
    names = {entry["name"] for entry in known}
    for file, entry in zip(sorted((root / "results").glob("*.json")), known, strict=True):
        missing = [key for key in KEYS if key not in entry]
        if missing or entry["name"] != file.stem:
            wrong.append(f"{file.name}: " + (f"no {', '.join(missing)}" if missing else f"name is {entry['name']}"))
        elif entry["machine"] not in machines:
            wrong.append(f"{file.name}: machine {entry['machine']} is not in machines.json")
        elif entry["before"]["entry"] not in (None, *names):
            wrong.append(f"{file.name}: started from {entry['before']['entry']}, which is not in the ledger")
    for number, fact in enumerate(read(root / "published.json")):
        if set(fact) != {"what", "model", "data", "figure", "source", "link"} or LINK - set(fact["link"] or LINK):
            wrong.append(
                f"published.json: entry {number} needs what, model, data, figure, source, link (null or {LINK})"
            )
    if (root / "datasets.json").is_file():
        measured_on = {entry["data"] for entry in known if entry["task"] in ("probe", "finetune")}
        wrong += [
            f"datasets.json: {name} is missing" for name in sorted(measured_on - read(root / "datasets.json").keys())
        ]
    if wrong:
        return wrong
    middle = split((root / "RESULTS.md").read_text())[1]
    if middle.strip() != rendered(root).strip():
        wrong.append("RESULTS.md: the generated part is not what `python benchmarks/ledger.py render` writes")
    if root == HERE and read(CITED) != cited(root):
        wrong.append(f"{CITED.name} of mimsuite plan is not what `python benchmarks/ledger.py render` writes")
    texts = {file.name: file.read_text() for file in [*(root / "results").glob("*.json"), *root.glob("*.json")]}
    for name, text in (texts | {"RESULTS.md": middle}).items():
        if found := ABSOLUTE.search(text):
            wrong.append(f"{name}: an absolute path at {text[found.start() : found.start() + 40]!r}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE)
    verbs = parser.add_subparsers(dest="verb", required=True)
    adding = verbs.add_parser("add")
    adding.add_argument("runs", nargs="+", type=Path)
    adding.add_argument("--machine", required=True)
    adding.add_argument("--name", help="of the file, for one run")
    adding.add_argument("--pretrained", action="append", default=[], metavar="INIT=ENTRY")
    verbs.add_parser("render")
    verbs.add_parser("check")
    given = parser.parse_args()
    try:
        if given.verb == "add" and given.name and len(given.runs) > 1:
            raise InputError("--name is for one run")
        if given.verb == "add":
            for run in given.runs:
                print(add(run, given.root, given.machine, given.name, given.pretrained))
        elif given.verb == "render":
            render(given.root)
        elif wrong := check(given.root):
            sys.exit("\n".join(wrong))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
