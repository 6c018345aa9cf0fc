"""Values of users: paths and words of any spelling, null for every key, values of the wrong kind, numbers from Python.

All tasks and keys in one process: each config is composed once, and read again with one value changed.
"""

import copy
import importlib
import inspect
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from run_facts import context_of

from mimsuite import api, app
from mimsuite.callbacks.context import check_parts
from mimsuite.cli import TASKS
from mimsuite.config.composing import compose_task, dotted_keys
from mimsuite.config.folder import conf_dir
from mimsuite.config.help import help_text
from mimsuite.config.kinds import declared_kinds, key_kinds
from mimsuite.config.overrides import override_of, quote_path, repeated_keys, task_arguments
from mimsuite.errors import InputError
from mimsuite.settings.places import with_places
from mimsuite.settings.resolve import with_values

SMALL = [
    "out=run",
    "model=vit_nano",
    "steps=2",
    "schedule.warmup=1",
    "batch=4",
    "image_size=32",
    "workers=0",
    "micro_batch=4",
]
BASE = {
    "pretrain": SMALL,
    "finetune": SMALL,
    "probe": ["init=demo:vit", "out=run"],
    "evaluate": ["init=demo:vit", "out=run"],
    "predict": ["init=demo:vit", "out=x.csv"],
    "embed": ["init=demo:vit", "out=x.npz"],
    "export": ["init=demo:vit", "to=hf", "out=x-hf"],
    "reconstruct": ["init=demo:vit", "out=x.png"],
    "plot": ["runs=run", "out=x.png"],
    "report": ["runs=run", "out=x.html"],
    "pack": ["src=photos", "out=shards"],
    "inspect": ["out=looks"],
    "models": [],
    "runs": [f"path={Path(__file__).parent}"],
    "bench": [value for value in SMALL if not value.startswith(("out", "steps"))],
    "plan": ["model=vit_nano", "image_size=32", "workers=0"],
    "doctor": [],
    "demo": ["out=demo"],
}
GOOD = {"null": None, "numbers": [1, 2], "number": 0.9, "large": 10**20, "word": "abc", "map": {"a": 1}, "empty": []}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_with(task, cfg, choices):
    """What a task does with a config before it writes."""
    app.check_removed(cfg, choices, [])
    cfg = with_places(cfg, task)
    if task in ("pretrain", "finetune"):
        check_parts("callbacks", cfg.callbacks or DictConfig({}), Callback, context_of(Path("run")), ())
        return importlib.import_module(f"mimsuite.tasks.{task}").build(cfg, [])
    read = getattr(importlib.import_module(f"mimsuite.settings.{task}"), f"read_{task}")
    return read(cfg, []) if "overrides" in inspect.signature(read).parameters else read(cfg)


def outcomes(task, values, keys=None):
    """`(key, name of the value, error or None)` for every key of a task."""
    logging.getLogger("mimsuite").setLevel(logging.ERROR)
    cfg, choices = compose_task(task, BASE[task])
    for key in keys or dotted_keys(cfg):
        for name, value in values.items():
            try:
                read_with(task, with_values(cfg, {key: copy.deepcopy(value)}), choices)
            except (InputError, OmegaConfBaseException) as error:
                yield key, name, error
            except Exception as error:
                raise AssertionError(f"{task} {key}={value}: {type(error).__name__}: {error}") from error
            else:
                yield key, name, None


@pytest.mark.parametrize("task", TASKS)
def test_null_for_a_key_has_a_meaning_or_is_refused_in_one_line(task):
    assert list(outcomes(task, {"null": None}))
    assert os.listdir() == []


OTHER = {name: value for name, value in GOOD.items() if name != "null"}
READERS = [task for task in TASKS if task not in ("pretrain", "finetune", "bench", "doctor")]


@pytest.mark.parametrize("task", READERS)
def test_a_value_of_the_wrong_kind_is_refused_in_one_line(task):
    assert list(outcomes(task, OTHER))
    assert os.listdir() == []


TRAINING = {
    "optim.betas": (0.9, [0.9], ["a", "b"], {}),
    "optim.eps": ([1.0e-8], "abc"),
    "optim.weight_decay": ([0.05], "abc", {}),
    "optim.base_lr": ([1.0], 0),
    "seed": (10**20, -1, 0.5, [0]),
    "steps": (10**20, 0.5, [1]),
    "batch": (10**20, [4], {}),
    "lr": ([0.1], "abc", {}),
    "mask.ratio": ("abc", {}, [], [[0.5]]),
    "mask.unit": ([16, 16], 0.5, "abc"),
    "augment.scale": (0.5, ["a", "b"], {}),
    "augment.flip": ([0.5], "abc"),
    "schedule.start": (None, [0.1], "abc"),
    "schedule.warmup": ([5], "abc", None),
    "trainer.clip": ([5.0], "abc"),
    "model.hidden_size": ([192], 0.5, "abc", None, 10**20),
    "model.patch_size": ("abc", [], {}, 0.5),
    "callbacks.monitor.log_every": (None, [10], 0.5),
    "callbacks.bad_samples.max_fraction": (None, [0.1], "abc"),
    "callbacks.reconstructions.images": (None, [8], "abc", 0.5),
    "loader.window": ([16], None, 0.5),
    "devices": ([0, 1], 0.5, {}),
    "image_size": (10**20, [1, 2, 3], {}, "abc"),
    "model": (None,),
    "head": (None,),
    "optim": (None,),
}


def test_a_run_refuses_values_of_the_wrong_kind_before_it_begins():
    found = [
        line
        for key, values in TRAINING.items()
        for line in outcomes("pretrain", {repr(value): value for value in values}, [key])
    ]
    assert [line for line in found if line[2] is None] == []
    assert os.listdir() == []


def one_line(error):
    return len(str(error).strip().splitlines()) == 1


def refused(task, key, value):
    """The line that refuses a value, as the command prints it after Hydra has parsed it."""
    cfg, choices = compose_task(task, BASE[task])
    with pytest.raises(InputError) as error:
        read_with(task, with_values(cfg, {key: value}), choices)
    assert one_line(error.value)
    return str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_path_is_an_unset_variable_and_refused(task):
    keys = [key for key in key_kinds() if key in compose_task(task, BASE[task])[0]]
    for key in keys:
        assert f"{key}= is empty (a variable of the shell that is not set?)" in refused(task, key, "")
    assert keys or task == "models"


NEEDED = [
    *(("out", task) for task in TASKS if task not in ("models", "runs", "bench", "plan", "doctor")),
    *(("init", task) for task in ("probe", "evaluate", "predict", "embed", "export", "reconstruct")),
    *(("src", "pack"), ("runs", "plot"), ("runs", "report"), ("path", "runs"), ("labels", "pack")),
]


@pytest.mark.parametrize(("key", "task"), NEEDED)
def test_null_for_a_place_that_the_task_needs_is_refused(key, task):
    assert f"{key}=null names nothing, and `mimsuite {task}` needs it" in refused(task, key, None)


@pytest.mark.parametrize("address", ["s3://b/x", "gs://b/x", "az://c/x", "https://h/x", "hf://datasets/o/n", "hf:o/n"])
def test_only_data_takes_the_address_of_another_machine(address):
    for task, key in (("pack", "src"), ("reconstruct", "images")):
        assert "cannot be read: only data= reads other machines; copy it here" in refused(task, key, address)
    assert "is not a folder of this machine" in refused("pack", "out", "s3://b/x")


def test_the_home_folder_is_written_out(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    given = {"~/a": "/a", "$HOME/a": "/a", "${HOME}": "", "~": ""}
    for written, place in given.items():
        cfg = compose_task("pretrain", [override_of("out", written), override_of("data", [written])])[0]
        made = with_places(cfg, "pretrain")
        assert (made.out, list(made.data)) == (f"{here}{place}", [f"{here}{place}"])
    (here / "~odd").mkdir()
    assert with_places(compose_task("pretrain", [override_of("out", "~odd")])[0], "pretrain").out == "~odd"


def parsed(argument):
    return OverridesParser.create().parse_override(quote_path(argument)).value()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[a/train-{000000..000003}.tar,b]", ["a/train-{000000..000003}.tar", "b"]),
        ("[my photos/a=b, c]", ["my photos/a=b", "c"]),
        ("[x/{0,1}.tar]", ["x/{0,1}.tar"]),
        ("[it's,ünï (2)]", ["it's", "ünï (2)"]),
        ("['a,b',\"c d\"]", ["a,b", "c d"]),
        ("[brackets]", ["brackets"]),
        ("my photos/a=b, c", "my photos/a=b, c"),
    ],
)
def test_a_list_of_paths_breaks_at_its_own_commas(value, expected):
    assert parsed(f"data={value}") == expected
    assert parsed(f"out={value}") == value  # no list is wanted there


def test_a_folder_whose_name_is_in_brackets_is_meant_where_there_is_one(here):
    (here / "[brackets]").mkdir()
    assert parsed("data=[brackets]") == "[brackets]"


def test_a_sweep_over_paths_needs_no_quotes_where_they_exist(here):
    (here / "a b").mkdir()
    (here / "c").mkdir()
    sweep = ["-m", "data=a b,c", "init=demo:vit,demo:cvt", "out=a b,c,d", "logger=null", "experiment=null"]
    assert task_arguments(sweep)[1:] == [
        "data='a b','c'",
        "init='demo:vit','demo:cvt'",
        "out='a b,c,d'",
        "logger=none",
    ]
    assert task_arguments(["data=a b,c"]) == ["data='a b,c'"]


def test_a_pattern_that_the_shell_wrote_out_is_refused():
    shards = [f"data=shards/{number:03}.tar" for number in range(13)]
    with pytest.raises(InputError, match=r"data= is given 13 times, from data=shards/000\.tar .* in quotes"):
        task_arguments(["out=runs/a", *shards])
    with pytest.raises(InputError, match=r"data= is given 2 times"):
        task_arguments(["data=a", "+data=b"])


def test_of_several_values_the_last_counts_and_is_named():
    assert task_arguments(["lr=1", "lr=2"]) == ["lr=1", "lr=2"]
    given = ["lr=1", "--cfg", "job", "image_size=96", "image_size=128", "lr=1", "~logger.wandb", "+optim.x=1"]
    assert repeated_keys(given) == ["image_size= is given 2 times, and the last counts: image_size=128"]


def test_none_for_an_inner_key_is_null_in_python():
    for value in (None, "null"):
        values = {"out": "run", "trainer.clip": value, "experiment": None}
        assert app.call_task("pretrain", lambda cfg, overrides: cfg, values).trainer.clip is None
    assert app.call_task("pretrain", lambda cfg, overrides: cfg, {"out": "run", "lr": None}).lr == "auto"


def test_a_variable_stays_a_variable(monkeypatch):
    monkeypatch.setenv("PHOTOS", "p q")
    cfg = compose_task("pretrain", [quote_path("data=${oc.env:PHOTOS}/a b"), quote_path("out=${x}")])[0]
    assert (cfg.data, cfg.out) == ("p q/a b", "${x}")


def test_a_key_has_one_kind_wherever_it_is_declared():
    declared = [pair for file in conf_dir().rglob("*.yaml") for pair in declared_kinds(file, conf_dir())]
    assert len(set(declared)) == len(key_kinds())
    assert {
        "data": "paths",
        "labels_column": "text",
        "logger.wandb.project": "text",
        "logger.mlflow.project": "text",
    }.items() <= key_kinds().items()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1e-3), 0.001),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(7), 7),
        (np.array([8, 16]), [8, 16]),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([1, 2]), [1, 2]),
        ((np.int32(1), 2), [1, 2]),
        (range(2), [0, 1]),
        (Path("a b"), "a b"),
        ({"layers": np.int64(2)}, {"layers": 2}),
        (np.str_("auto"), "auto"),
    ],
)
def test_values_of_other_libraries_are_numbers_and_lists(value, expected):
    assert OverridesParser.create().parse_override(override_of("image_size", value)).value() == expected


def test_an_object_that_no_config_holds_is_refused():
    with pytest.raises(InputError, match=r"lr=<object object at .*> is a object, which no config holds"):
        api.pretrain(out="run", lr=object())
    with pytest.raises(InputError, match=r"lr=\{1\} is a set"):
        api.pretrain(out="run", lr={1})


def test_help_lists_the_choices_of_a_config_folder(here):
    (here / "conf" / "experiment").mkdir(parents=True)
    (here / "conf" / "experiment" / "mine.yaml").touch()
    assert app.own_folders(["--config-dir", "conf", "--help"]) == [Path("conf")]
    row = next(
        r for r in help_text("pretrain", conf_dir(), [Path("conf")]).splitlines() if r.startswith("  experiment")
    )
    assert "mae_vit_base_800ep" in row
    assert "mine" in row
    assert "path;" not in help_text("pretrain", conf_dir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-cn", "foo"], "--config-name=foo is not allowed: the task says which config it takes"),
        (["--resolve"], "--resolve is for --cfg; use --cfg job --resolve"),
        (["optim=null"], "a config group cannot be null"),
        (["~optim"], "~optim: the task needs this key"),
        (["~lr"], "~lr: the task needs this key"),
        (["mask._target_=os.system"], "_target_=os.system is not allowed"),
        (["+mine._target_=os.system"], "unknown key 'mine'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_writes_nothing(arguments, says, monkeypatch, capsys):
    from mimsuite.tasks import pretrain

    monkeypatch.setattr("sys.argv", ["pretrain", *arguments, *SMALL])
    assert app.run_guarded(lambda: app.through_hydra("pretrain", pretrain.run), "pretrain") == 2
    text = capsys.readouterr().err
    assert says in text
    assert len(text.splitlines()) == 1
    assert os.listdir() == []


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("pretrain", "finetune", "models", "demo")])
def test_unknown_keys_and_targets_are_refused_before_anything_is_written(task, monkeypatch, capsys):
    run = importlib.import_module(f"mimsuite.tasks.{task}").run
    for more in (["+stepz=1"], ["+mine._target_=os.system"], ["+mask.ratoi=1"], ["+mask._target_=os.system"]):
        monkeypatch.setattr("sys.argv", [task, *BASE[task], *more])
        assert app.run_guarded(lambda: app.through_hydra(task, run), task) == 2
        lines = capsys.readouterr().err.splitlines()
        text = lines[-1]
        assert "unknown key" in text or "is not allowed" in text or "An item is already" in text or "Could not" in text
        assert len(lines) == 1 or (task == "plan" and "mimsuite plan: " not in "".join(lines[:-1]))  # how far it is
    assert os.listdir() == []


def test_a_folder_that_was_removed_under_the_command_is_named(here, monkeypatch, capsys):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(SystemExit) as ended:
        app.main("models", lambda cfg, overrides: {})
    os.chdir(here)
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("mimsuite models: the current folder has been removed; go to another one (cd)\n")
