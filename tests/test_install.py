"""Installed as a wheel or run from a checkout, every form finds its configuration from any directory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def answers(command, cwd, path=None):
    env = {"PATH": "/usr/bin:/bin", **({"PYTHONPATH": str(path)} if path else {})}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "hidden_size: 192" in result.stdout
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    # A copy: building in place would leave build/ and an egg-info beside the sources.
    copy = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True, timeout=60)
    subprocess.run([*command, str(copy)], check=True, timeout=110)
    (found,) = folder.glob("mimsuite-*.whl")
    return found


def test_a_wheel_installed_elsewhere_finds_its_configuration_and_data(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, timeout=110)
    answers([sys.executable, "-m", "mimsuite.cli", "pretrain", "--cfg", "job"], tmp_path, target)
    code = (
        "import mimsuite; from mimsuite.data.open import open_data; from mimsuite.weights.init import find_weights; "
        "print(mimsuite.__file__, open_data(None).splits.keys(), len(find_weights('demo:bit').state()))"
    )
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(target)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert str(target) in result.stdout
    assert "'train', 'val'" in result.stdout


def test_a_checkout_answers_without_installation():
    answers([sys.executable, "-m", "mimsuite.tasks.pretrain", "--cfg", "job"], ROOT, ROOT)


def test_the_installed_command_answers_from_any_directory(tmp_path):
    answers([str(Path(sys.executable).parent / "mimsuite"), "pretrain", "--cfg", "job"], tmp_path)
