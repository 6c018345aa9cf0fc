"""Does pretraining pay, and which? Tables at equal compute: each row is pretrained, probed and fine-tuned.

python benchmarks/proof.py plan TABLE                    # what each row costs: FLOPs of an image, steps, epochs
python benchmarks/proof.py run TABLE --machine A [--rows mae90,scratch] [--seeds 0,1] [--threads 1]
python benchmarks/proof.py render                        # the tables of RESULTS.md, from the ledger

The tables stand in proof.yaml. `run` does one stage after another and enters each into the ledger (ledger.py). The same
command goes on where it was stopped or killed, in the middle of a training too. Runs that are done are taken as they
are, if they spent the compute of the table. Several processes may do different rows or seeds at the same time. The row
`scratch` is training from scratch, at equal steps and at equal compute.

FLOPs are counted by mimsuite in the step that an objective really does, forward and backward, with the passes of a
teacher; two per multiply-add.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger

from mimsuite.errors import InputError

Values = dict[str, Any]
HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- proof: begin, made by `python benchmarks/proof.py render` -->", "<!-- proof: end -->"
TOLERANCE = 0.02  # by which the compute of a run that is taken as it is may differ
PROBES = {"linear": "probe/top1", "attentive": "attentive/top1", "kNN": "knn/top1"}
FRESH = {"random initialisation": "random", "raw pixels, 8x8": "8x8"}
SCRATCH = {"steps": "from scratch, the steps of the fine-tuning", "compute": "from scratch, equal compute"}


@dataclass(frozen=True)
class Cost:
    """What a training costs.

    Attributes:
        flops: of an image, forward and backward.
        batch: images of a step.
        steps: of the run.
        of_epoch: steps of an epoch.
    """

    flops: float
    batch: int
    steps: int
    of_epoch: int

    @property
    def total(self) -> float:
        """FLOPs of the run."""
        return self.flops * self.batch * self.steps

    def spending(self, total: float) -> Cost:
        """The same with as many steps as spend a total."""
        return Cost(self.flops, self.batch, max(1, round(total / (self.flops * self.batch))), self.of_epoch)


@dataclass(frozen=True)
class Stage:
    """One run.

    Attributes:
        row, what, seed: whose it is, and which of the row's runs; they name folder and ledger entry.
        task: pretrain, probe or finetune.
        values: keys of the task.
        start: the folder that it starts from, below the one of all runs.
        cost: what it costs, if it trains.
    """

    row: str
    what: str
    seed: int
    task: str
    values: Values = field(default_factory=dict)
    start: str | None = None
    cost: Cost | None = None

    @property
    def folder(self) -> str:
        """`mae90_s0` of the pretraining, `mae90_s0_probe` of what follows."""
        return f"{self.row}_s{self.seed}" + ("" if self.what == "pretrain" else f"_{self.what}")


# --- what a table holds -----------------------------------------------------------------------------------------------


class Table:
    """A table of proof.yaml, on a folder with data sets."""

    def __init__(self, name: str, tables: Values, data: Path) -> None:
        if name not in tables:
            raise InputError(f"{name} is not a table of proof.yaml; use one of {', '.join(tables)}")
        self.name, self.facts, self._costs = name, tables[name], dict[str, Cost]()
        self.rows: dict[str, Values] = self.facts["rows"]
        self.data = {} if self.facts["data"] is None else {"data": str(data / self.facts["data"])}

    def pretraining(self, row: str) -> Values:
        """The keys of a row's pretraining, but for its length."""
        if row not in self.rows:
            raise InputError(f"{row} is not a row of {self.name}; use scratch, {', '.join(self.rows)}")
        return self.data | self.facts["pretrain"] | {k: v for k, v in self.rows[row].items() if k != "teacher"}

    def tuning(self, **more: Any) -> Values:
        """The keys of fine-tuning."""
        return self.data | self.facts["finetune"] | more

    def pretraining_cost(self, row: str) -> Cost:
        """As many steps as spend what the row `reference` spends."""
        reference = self.facts["reference"]
        if row == reference:
            return self._counted(row, "pretrain", self.pretraining(row) | self.facts["length"])
        one = self._counted(row, "pretrain", self.pretraining(row) | {"steps": 1})
        return one.spending(self.pretraining_cost(reference).total)

    def scratch_costs(self) -> dict[str, Cost]:
        """What training from scratch costs: with the steps of the fine-tuning, and with the compute of all."""
        equal = self._counted("scratch", "finetune", self.tuning(**self.facts["model"]))
        return {
            "steps": equal,
            "compute": equal.spending(self.pretraining_cost(self.facts["reference"]).total + equal.total),
        }

    def _counted(self, key: str, task: str, values: Values) -> Cost:
        if key not in self._costs:
            self._costs[key] = counted(task, values)
        return self._costs[key]

    def stages(self, row: str, seed: int) -> Iterator[Stage]:
        """The runs of a row, in order."""
        if row == "scratch":
            for what, cost in self.scratch_costs().items():
                values = self.tuning(**self.facts["model"], steps=cost.steps, seed=seed)
                yield Stage(row, what, seed, "finetune", values, cost=cost)
            return
        cost, probing = self.pretraining_cost(row), self.data | self.facts["probe"] | {"seed": seed}
        yield (
            first := Stage(
                row,
                "pretrain",
                seed,
                "pretrain",
                self.pretraining(row) | {"steps": cost.steps, "seed": seed},
                cost=cost,
            )
        )
        baselines = {"baselines": row == self.facts["reference"]}
        yield Stage(row, "probe", seed, "probe", probing | baselines, first.folder)
        if self.rows[row].get("teacher"):
            yield Stage(
                row, "teacher", seed, "probe", probing | {"baselines": False}, f"{first.folder}/weights-teacher"
            )
        spent = self._counted(f"{row} tuned", "finetune", self.tuning(**self.facts["model"] | self._patch(row)))
        yield Stage(row, "finetune", seed, "finetune", self.tuning(seed=seed), first.folder, spent)

    def _patch(self, row: str) -> Values:
        return {key: value for key, value in self.rows[row].items() if key.startswith("model")}


def counted(task: str, values: Values) -> Cost:
    """What a training costs, counted on the objects that the run would have."""
    import mimsuite
    from mimsuite.objectives.flops import training_flops
    from mimsuite.runs.cost import BLANK

    module, data, trainer = mimsuite.build(task, **values | {"devices": 1, "workers": 0})  # type: ignore[arg-type]
    flops = training_flops(module, data.blank_for_cost(BLANK.get(module.label_kind)))
    batch = trainer["accumulate_grad_batches"] * data.micro_batch
    return Cost(flops, batch, trainer["max_steps"], data.order.steps_per_epoch)


# --- doing them -------------------------------------------------------------------------------------------------------


def do(stage: Stage, work: Path, workers: int) -> Values:
    """Starts a stage, goes on with it, or takes it as it is; returns its summary.

    Raises:
        InputError: a run that is done and spent another compute.
    """
    import mimsuite

    out = work / stage.folder
    found = ledger.read(out / "summary.json") if (out / "summary.json").is_file() else {}
    if found.get("status") == "done":
        wanted = None if stage.cost is None else stage.cost.batch * stage.cost.steps
        if wanted and abs(found["images"] / wanted - 1) > TOLERANCE:
            raise InputError(
                f"{out} is done with {found['images']:,} images, and {wanted:,} spend the compute of the table; "
                "move it away, or change proof.yaml"
            )
        return found
    start = {} if stage.start is None else {"init": str(work / stage.start)}
    if stage.task == "probe":
        return mimsuite.probe(out=out, overwrite=True, workers=workers, **start, **stage.values)
    trains = getattr(mimsuite, stage.task)
    if (out / "config.yaml").is_file():
        return trains(out=out, resume=True, workers=workers)
    return trains(out=out, logger="null", workers=workers, **start, **stage.values)


def enter(table: Table, stage: Stage, work: Path, root: Path, machine: str) -> Path:
    """Writes the ledger's entry of a finished stage."""
    name = entry_name(table.name, stage.row, stage.what, stage.seed)
    given, flops = [], None if stage.cost is None else round(stage.cost.flops)
    if stage.start is not None:
        given = [f"{ledger.last(stage.start)}={entry_name(table.name, stage.row, 'pretrain', stage.seed)}"]
    return ledger.add(work / stage.folder, root, machine, name, given, flops)


def entry_name(table: str, row: str, what: str, seed: int) -> str:
    """Of a ledger file."""
    return f"proof_{table}_{row}_{what}_seed{seed}"


def run(
    table: Table,
    rows: Sequence[str],
    seeds: Sequence[int],
    do_stage: Callable[[Stage], Values],
    enter_stage: Callable[[Stage], Path],
) -> int:
    """Does rows of a table, seed by seed; returns the exit code: that of a run that a signal stopped, else 0."""
    for seed in seeds:
        for row in rows:
            for stage in table.stages(row, seed):
                print(f"PROOF {table.name} {stage.folder}", flush=True)
                summary = do_stage(stage)
                if summary["status"] != "done":
                    return int(summary.get("exit_code") or 1)
                print(f"PROOF {table.name} {stage.folder}: {enter_stage(stage).name}", flush=True)
    return 0


def plan(table: Table) -> Iterator[str]:
    """Lines: what each row costs, or why it cannot be done."""
    budget = table.pretraining_cost(table.facts["reference"]).total
    yield f"{table.name}: {budget / 1e12:.0f} TFLOP of pretraining for each row"
    for row in [*table.rows, "scratch"]:
        try:
            costs = table.scratch_costs() if row == "scratch" else {"": table.pretraining_cost(row)}
        except InputError as error:
            yield f"{row:10} cannot be done: {error}"
            continue
        for what, cost in costs.items():
            yield (
                f"{f'{row} {what}':16} {cost.flops / 1e6:8.0f} MFLOP an image, {cost.steps:7,} steps of {cost.batch}, "
                f"{cost.steps / cost.of_epoch:6.1f} epochs, {cost.total / 1e12:6.0f} TFLOP"
            )


# --- from the ledger to a page ----------------------------------------------------------------------------------------


def rendered(tables: Values, root: Path) -> str:
    """What stands between the markers of RESULTS.md: every table that has an entry."""
    entries = {entry["name"]: entry for entry in ledger.entries(root)}
    return "\n".join(line for name, facts in tables.items() for line in lines_of(name, facts, entries))


def lines_of(name: str, facts: Values, entries: dict[str, Values]) -> Iterator[str]:
    """The lines of one table; none without entries."""

    def found(row: str, what: str) -> list[Values]:
        names = (entry_name(name, row, what, seed) for seed in facts["seeds"])
        return [entries[name] for name in names if name in entries]

    def cells(
        title: str, pretrained: Sequence[Values], probes: Sequence[Values], tuned: Sequence[Values], prefix: str = ""
    ) -> str:
        length = "" if not pretrained else f"{pretrained[0]['epochs']:g}"
        cost = "" if not pretrained else f"{pretrained[0]['flops']['total'] / 1e12:.0f}"
        figures = [accuracies(probes, prefix + figure) for figure in PROBES.values()]
        runs = [*pretrained, *([] if pretrained else probes or tuned)]
        links = ", ".join(f"[{entry['seed']}](results/{entry['name']}.json)" for entry in runs)
        return f"| {' | '.join([title, length, cost, *figures, accuracies(tuned), links])} |"

    rows = [(row, what, found(row, what)) for row in facts["rows"] for what in ("probe", "teacher")]
    rows = [(row, what, probes) for row, what, probes in rows if probes or (what == "probe" and found(row, "finetune"))]
    scratch = {what: found("scratch", what) for what in SCRATCH}
    if not rows and not any(scratch.values()):
        return
    yield f"### {facts['title']}"
    yield ""
    columns = ["pretraining", "epochs", "TFLOP", *PROBES, f"fine-tuned, {percent(facts)} of the labels", "seeds"]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row, what, probes in rows:
        own = what == "probe"
        title = f"`{row}`" if own else f"`{row}`, the teacher's weights"
        yield cells(title, found(row, "pretrain") if own else [], probes, found(row, "finetune") if own else [])
    for title, prefix in FRESH.items():
        if beside := found(facts["reference"], "probe"):
            yield cells(title, [], beside, [], f"{prefix}/")
    for what, title in SCRATCH.items():
        if scratch[what]:
            yield cells(f"{title} ({scratch[what][0]['flops']['total'] / 1e12:.0f} TFLOP)", [], [], scratch[what])
    yield ""


def percent(facts: Values) -> str:
    """The share of the labels."""
    return f"{100 * facts['finetune'].get('label_fraction', 1):g} %"


def accuracies(entries: Sequence[Values], figure: str | None = None) -> str:
    """A figure of each seed, in percent; None: the one that counts."""
    found = [entry["figures"].get(figure or ledger.main_figure(entry)) for entry in entries]
    return ", ".join(f"{100 * value:.1f}" for value in found if value is not None)


def split(page: str) -> tuple[str, str, str]:
    """The page before the begin marker, between the markers, and after."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError("RESULTS.md needs each marker of the proof tables once")
    head, rest = page.split(BEGIN)
    middle, tail = rest.split(END)
    return head, middle, tail


def render(tables: Values, root: Path) -> None:
    """Writes the tables into RESULTS.md, those of the ledger too."""
    head, _, tail = split((root / "RESULTS.md").read_text())
    (root / "RESULTS.md").write_text(f"{head}{BEGIN}\n\n{rendered(tables, root)}\n{END}{tail}")
    ledger.render(root)


def main() -> None:
    tables: Values = yaml.safe_load((HERE / "proof.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE, help="of the ledger")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("render")
    for verb in ("plan", "run"):
        adding = verbs.add_parser(verb)
        adding.add_argument("table", choices=list(tables))
        adding.add_argument(
            "--data", type=Path, default=HERE.parents[1] / "shared/data", help="folder of the data sets"
        )
    adding.add_argument("--machine", required=True, help="its letter in machines.json")
    adding.add_argument("--rows", help="default: all, then scratch")
    adding.add_argument("--seeds", help="default: those of the table")
    adding.add_argument("--threads", type=int, default=1)
    adding.add_argument("--workers", type=int, default=0)
    adding.add_argument("--work", type=Path, help="folder of the runs (default: proof/TABLE)")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(getattr(given, "threads", 1))  # before torch is imported
    try:
        if given.verb == "render":
            render(tables, given.root)
            return
        table = Table(given.table, tables, given.data)
        if given.verb == "plan":
            for line in plan(table):
                print(line, flush=True)
            return
        rows = given.rows.split(",") if given.rows else [*table.rows, "scratch"]
        seeds = [int(seed) for seed in given.seeds.split(",")] if given.seeds else table.facts["seeds"]
        work = given.work or Path("proof") / given.table
        sys.exit(
            run(
                table,
                rows,
                seeds,
                lambda stage: do(stage, work, given.workers),
                lambda stage: enter(table, stage, work, given.root, given.machine),
            )
        )
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
