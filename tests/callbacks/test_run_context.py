"""Callbacks and loggers get the facts of a run by type: those of mimsuite and those of a user alike."""

import json
import sys
import textwrap

import pytest
from lightning import Callback
from omegaconf import OmegaConf
from run_facts import context_of

from mimsuite import api
from mimsuite.callbacks.context import RunContext, check_parts, make_callbacks, parameters_of_type
from mimsuite.callbacks.monitor import Monitor
from mimsuite.callbacks.online_probe import OnlineProbe
from mimsuite.errors import InputError
from mimsuite.runs.loggers.guest import close_loggers
from mimsuite.runs.loggers.making import make_loggers

HERE = __name__


class Recorder(Callback):
    """A user's callback: its parameter has a name of its own, and its node too."""

    def __init__(self, *, every: int, facts: RunContext) -> None:
        self.every, self.facts = every, facts


class Plain(Callback):
    """A user's callback that asks for nothing."""

    def __init__(self, every: int = 1) -> None:
        self.every = every


class Optional(Callback):
    """A user's callback that also works without a run."""

    def __init__(self, facts: RunContext | None = None) -> None:
        self.facts = facts


class Quiet(Recorder):
    """A user's callback that decides itself whether it is wanted."""

    @classmethod
    def is_wanted(cls, context: RunContext) -> bool:
        return context.batch > 100


def made(folder, trusted=None, **nodes):
    names = [f"{HERE}.{cls.__name__}" for cls in (Recorder, Plain, Optional, Quiet)]
    context = context_of(folder)
    return make_callbacks(OmegaConf.create(nodes), context, names if trusted is None else trusted), context


def test_a_users_callback_gets_the_context_by_its_annotation(tmp_path):
    nodes = {"anything": {"_target_": f"{HERE}.Recorder", "every": 3}, "more": {"_target_": f"{HERE}.Optional"}}
    (recorder, optional), context = made(tmp_path, **nodes)
    assert recorder.facts is context
    assert optional.facts is context
    assert recorder.every == 3


def test_the_name_of_a_node_decides_nothing(tmp_path):
    nodes = {"monitor": {"_target_": f"{HERE}.Plain"}, "x": {"_target_": "mimsuite.callbacks.monitor.Monitor"}}
    nodes["x"]["log_every"] = 5
    (plain, monitor), context = made(tmp_path, **nodes)
    assert isinstance(plain, Plain)
    assert isinstance(monitor, Monitor)
    assert monitor.context is context


def test_a_callback_that_is_not_wanted_is_not_built(tmp_path):
    probe = {"_target_": "mimsuite.callbacks.online_probe.OnlineProbe", "images": "auto"}  # not resolved
    probe |= {"val_images": "auto", "share": 0.1, "labels": "auto"}
    nodes = {"a": {"_target_": f"{HERE}.Quiet", "every": 1}, "monitor": probe}
    assert made(tmp_path, **nodes)[0] == []
    with pytest.raises(InputError, match=r"unknown key .*imags.*; did you mean .*images"):
        check_parts("b", OmegaConf.create({"b": probe | {"imags": 1}}), Callback, context_of(tmp_path), ())
    probe |= {"images": 20, "val_images": 20, "labels": True}
    (built,) = make_callbacks(OmegaConf.create({"b": probe}), context_of(tmp_path, online_probe=True), ())
    assert isinstance(built, OnlineProbe)


def test_without_trust_a_users_callback_is_refused(tmp_path):
    with pytest.raises(InputError, match=rf"_target_={HERE}.Recorder is not allowed"):
        made(tmp_path, trusted=(), a={"_target_": f"{HERE}.Recorder", "every": 1})


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (None, "callbacks.a=None has no _target_; to remove it, use ~callbacks.a"),
        ({"every": 1}, "callbacks.a=.* has no _target_; to remove it, use ~callbacks.a"),
        ({"_target_": "mimsuite.masked.samplers.NoMask"}, "NoMask is not a lightning.pytorch.callbacks.callback.Call"),
    ],
)
def test_a_node_that_gives_no_callback_is_one_line(node, says, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        made(tmp_path, a=node)
    assert "\n" not in str(error.value)


def test_annotations_that_are_text_are_read_too(tmp_path, monkeypatch):
    code = """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from lightning import Callback
        from mimsuite.callbacks.context import RunContext
        if TYPE_CHECKING:
            from mimsuite.callbacks.context import RunContext as Hidden
            from somewhere import Thing

        class Now(Callback):
            def __init__(self, other: str, facts: RunContext) -> None: ...

        class Later(Callback):
            def __init__(self, thing: Thing, facts: RunContext | None, more: RunContexts) -> None: ...
    """
    (tmp_path / "as_text.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    import as_text

    assert parameters_of_type(as_text.Now, RunContext) == ["facts"]
    assert parameters_of_type(as_text.Later, RunContext) == ["facts"]
    assert parameters_of_type(dict, RunContext) == []
    del sys.modules["as_text"]


def test_a_users_logger_gets_it_too_and_only_where_a_process_leads(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("mimsuite.runs.loggers.wandb.WandbLogger.is_wanted", lambda _: True)
    node = {"_target_": "mimsuite.runs.loggers.wandb.WandbLogger", "project": "p", "group": None}
    csv = {"_target_": "lightning.pytorch.loggers.csv_logs.CSVLogger", "save_dir": str(tmp_path)}
    nodes, trusted = OmegaConf.create({"a": node, "b": csv}), ["lightning.pytorch.loggers.csv_logs.CSVLogger"]
    assert make_loggers(nodes, context_of(tmp_path, leads=False), trusted) == []
    loggers = make_loggers(nodes, context_of(tmp_path), trusted)
    assert [logger.name for logger in loggers] == ["wandb", "lightning_logs"]
    close_loggers(loggers)
    assert not loggers[0].failed


@pytest.mark.slow
def test_a_users_callback_reads_the_facts_of_a_real_run(tmp_path, monkeypatch):
    code = """
        import json
        from pathlib import Path
        from lightning import Callback
        from mimsuite.callbacks.context import RunContext

        class Facts(Callback):
            def __init__(self, run: RunContext, file: str) -> None:
                self.run, self.file = run, file

            def on_train_end(self, trainer, pl_module):
                run = self.run
                run.save_weights(pl_module.evaluated_model)
                facts = [str(run.folder), run.batch, run.steps, list(run.image_size), run.leads, run.config["seed"]]
                Path(self.file).write_text(json.dumps(facts))
    """
    (tmp_path / "users_facts.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    out, file = tmp_path / "out", tmp_path / "facts.json"
    keys = {"model": "vit_nano", "batch": 16, "steps": 2, "loader.val_limit": 16, "workers": 0, "seed": 3}
    mine = {"+callbacks.mine": {"_target_": "users_facts.Facts", "file": str(file)}}
    api.call("pretrain", {"out": str(out), **keys, **mine, "trusted_targets": ["users_facts.Facts"]})
    folder, *facts = json.loads(file.read_text())
    assert folder == str(out)
    assert facts == [16, 2, [64, 64], True, 3]
