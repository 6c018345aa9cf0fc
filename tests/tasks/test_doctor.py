"""The doctor: what it calls a fault, and that nothing broken breaks it."""

import json
import types

import pytest

from mimsuite import api, app
from mimsuite.tasks import doctor

GOOD = {"torch": "2.13.0+cpu", "lightning": "2.6.6", "omegaconf": "2.3.1", "hydra-core": "1.3.8"}


def levels(findings):
    return [(f.level, f.about) for f in findings]


@pytest.mark.slow
def test_this_environment_is_sound_and_reported_once_whole(tmp_path):
    out = tmp_path / "new" / "doctor.json"
    report = api.doctor(out=str(out), data=None)
    faults = [f for f in report["findings"] if f["level"] == "fault" and f["about"] not in ("cache", "temporary")]
    assert faults == []
    assert report == json.loads(out.read_text())
    about = [f["about"] for f in report["findings"]]
    assert {"mimsuite", "torch", "Pillow", "devices", "threads", "open files", "cache", "temporary"} <= set(about)


def test_versions_are_held_against_what_is_asked_for():
    asked = ["torch>=2.11", "hydra-core>=1.3.8,<1.4", "h5py>=3 ; extra == 'h5'", "Pillow>=12.3"]
    found = list(doctor.check_libraries({"torch": "2.13.0+cpu", "hydra-core": "1.4.0"}, asked))
    assert levels(found) == [("ok", "torch"), ("fault", "hydra-core"), ("fault", "Pillow")]
    assert found[1].text == "1.4.0, but <1.4,>=1.3.8 is asked for"
    assert found[2].fix == 'pip install -c constraints.txt "Pillow>=12.3"'


@pytest.mark.parametrize(
    ("more", "adders", "about"),
    [
        ({}, [], []),
        ({"torchvision": "0.28.0"}, [], [("fault", "torchvision")]),
        ({"torchvision": "0.28.0", "torch": "2.13.0", "nvidia-cudnn-cu13": "9"}, [], []),
        ({"timm": "1.0"}, [], []),
        ({"timm": "1.0", "torch": "2.14.0", "nvidia-cudnn-cu13": "9"}, [], [("note", "timm")]),
        ({"litdata": "0.3", "torchvision": "0.28.0"}, [], [("fault", "torchvision")]),
        ({"lightning": "2.6.2"}, [], [("fault", "lightning")]),
        ({"lightning": "2.6.3"}, [], [("fault", "lightning")]),
        ({"omegaconf": "2.4.0.dev1"}, [], [("fault", "omegaconf")]),
        ({"omegaconf": "2.4.0", "hydra-core": "1.4.0"}, [], []),
        ({"stable-pretraining": "0.1"}, ["stable-pretraining"], [("fault", "stable-pretraining")]),
        ({}, ["other-adder"], [("fault", "other-adder")]),
    ],
)
def test_known_traps_are_named_with_a_fix(more, adders, about):
    found = list(doctor.check_traps({**GOOD, **more}, adders))
    assert levels(found) == about
    assert all("pip" in f.fix or "--no-deps" in f.fix for f in found)


@pytest.mark.parametrize("code", ["raise RuntimeError('operator torchvision::nms')", "print('no json')", "pass"])
def test_a_broken_torch_is_a_fault_and_no_crash(code):
    (finding,) = doctor.check_torch(code)
    assert finding[:2] == ("fault", "torch")
    assert "cannot be imported: " in finding.text


def test_a_device_is_named():
    facts = '{"torch": "2.13.0", "cuda": "13.0", "threads": 8, "devices": ["H200", "H200"]}'
    (finding,) = doctor.check_torch(f"print('''{facts}''')")
    assert finding == ("ok", "devices", "H200, H200; torch 2.13.0 for CUDA 13.0, 8 threads", "")


@pytest.mark.parametrize(
    ("files", "told", "level", "words"),
    [
        ({}, None, "ok", "8 cores, OMP_NUM_THREADS=not set"),
        ({}, "4", "ok", "OMP_NUM_THREADS=4"),
        ({}, "64", "note", "8 cores, but OMP_NUM_THREADS=64"),
        ({}, "many", "note", "OMP_NUM_THREADS=many"),
        ({"cpu.max": "200000 100000\n"}, None, "note", "of which a cgroup allows 2; torch starts one for each core"),
        ({"cpu.max": "200000 100000\n"}, "2", "ok", "of which a cgroup allows 2"),
        ({"cpu.max": "max 100000\n"}, None, "ok", "8 cores, OMP"),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "8", "note", "allows 1.5, but"),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, "ok", "8 cores, OMP"),
    ],
)
def test_threads_are_held_against_cores_and_cgroups(files, told, level, words, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    (finding,) = doctor.check_threads(tmp_path, cores=8)
    assert finding.level == level
    assert words in finding.text


@pytest.mark.parametrize(("free", "level"), [(64 << 20, "fault"), (512 << 20, "note"), (8 << 30, "ok")])
def test_little_shared_memory_is_named(free, level, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free))
    assert doctor.check_space("/dev/shm", tmp_path, "workers=0", 1 << 28).level == level


@pytest.mark.parametrize(("flags", "words"), [("fpu amx_bf16", "(amx_bf16)"), ("fpu sse2", "bf16 is slow here")])
def test_what_the_cpu_can_do_is_told(flags, words, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    (finding,) = doctor.check_cpu(tmp_path / "cpuinfo")
    assert words in finding.text
    assert list(doctor.check_cpu(tmp_path / "absent")) == []


def answers(monkeypatch, *findings):
    for name in ("check_libraries", "check_traps", "check_torch", "check_cpu", "check_threads", "check_storage"):
        monkeypatch.setattr(doctor, name, lambda *_: [])
    monkeypatch.setattr(doctor, "check_platform", lambda: list(findings))


@pytest.mark.parametrize(
    ("level", "strict", "code"),
    [("ok", True, 0), ("note", False, 0), ("note", True, 1), ("fault", False, 1)],
)
def test_the_exit_code_is_one_where_something_is_broken(level, strict, code, monkeypatch):
    answers(monkeypatch, doctor.Finding(level, "x", "y", "z"))
    assert api.doctor(strict=strict)["exit_code"] == code


def test_data_that_cannot_be_opened_is_a_fault_with_its_own_line(tmp_path, monkeypatch):
    answers(monkeypatch, doctor.Finding("ok", "x", "y"))
    report = api.doctor(data=str(tmp_path / "nowhere"))
    assert report["exit_code"] == 1
    assert "nowhere does not exist" in report["findings"][-1]["text"]
    emoji = doctor.check_data(str(doctor.Path(doctor.__file__).parents[1] / "data" / "emoji-64"))
    assert levels(emoji) == [("ok", "data")]


def test_out_must_be_a_json_file(tmp_path, capsys):
    code = app.run_guarded(lambda: int(api.doctor(out=str(tmp_path / "doctor"))["exit_code"]), "doctor")
    assert code == 2
    assert f"use out={tmp_path / 'doctor.json'}" in capsys.readouterr().err
