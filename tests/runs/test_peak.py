"""The peak of a device: of known GPUs by their names, of others and of CPUs by a matrix product."""

import pytest
import torch
from lightning.fabric.utilities.throughput import _CUDA_FLOPS

from mimsuite.models.device import Device, find_device
from mimsuite.runs import peak
from mimsuite.runs.cost import Cost
from mimsuite.runs.peak import DTYPES, KNOWN, find_peak, known_flops
from mimsuite.words import PRECISIONS


@pytest.mark.parametrize(
    ("name", "bf16", "fp16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 312, 19.5),
        ("NVIDIA H100 80GB HBM3", 989, 989, 67),
        ("NVIDIA H100 PCIe", 756, 756, 51),
        ("NVIDIA H100 NVL", 835, 835, 60),
        ("NVIDIA H200", 989, 989, 67),
        ("NVIDIA L4", 121, 121, 30.3),
        ("NVIDIA L40S", 362, 362, 91.6),
        ("NVIDIA GeForce RTX 3090", 71, 71, 35.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6),
        ("NVIDIA RTX A6000", 154.8, 154.8, 38.7),
        ("Tesla V100-SXM2-32GB", None, 125, 15.7),
        ("Tesla T4", None, 65, 8.1),
        ("NVIDIA A10G", None, None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None),
        ("NVIDIA GeForce RTX 3090 Ti", None, None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None),
        ("NVIDIA H20", None, None, None),
    ],
)
def test_a_gpu_is_known_by_the_words_of_its_name(name, bf16, fp16, fp32):
    for dtype, expected in (("bfloat16", bf16), ("float16", fp16), ("float32", fp32)):
        assert known_flops(name, dtype) == (None if expected is None else pytest.approx(expected * 1e12))


def test_the_table_agrees_with_lightnings_where_that_is_without_sparsity():
    rows = {"a100": "A100", "h100 sxm": "H100", "h100 pcie": "H100 PCIe", "l4": "L4", "l40": "L40", "t4": "T4"}
    table = {row: values for row, *values in KNOWN}
    for theirs, ours in rows.items():
        _, fp16, fp32 = table[ours]
        assert fp16 * 1e12 == pytest.approx(_CUDA_FLOPS[theirs][torch.float16], rel=0.01)
        assert fp32 * 1e12 == pytest.approx(_CUDA_FLOPS[theirs][torch.float32], rel=0.01)


def test_every_precision_has_its_numbers():
    assert set(DTYPES) == set(PRECISIONS) - {"auto"}
    assert all(isinstance(getattr(torch, dtype), torch.dtype) for dtype in DTYPES.values())


def test_a_known_gpu_is_not_measured_and_another_is(monkeypatch):
    monkeypatch.setattr(peak, "measured_flops", lambda accelerator, dtype: 5e12)
    known = find_peak(Device("gpu", "NVIDIA H200", 139.0, True), "bf16-mixed")
    assert (known.flops, known.source) == (989e12, "the peak of NVIDIA H200 in bfloat16")
    for name, precision in (("NVIDIA H20", "bf16-mixed"), ("NVIDIA H200", "64-true"), ("Tesla T4", "bf16-mixed")):
        found = find_peak(Device("gpu", name, 16.0, True), precision)
        assert found.flops == 5e12
        assert "measured here" in found.source


def test_float32_in_shorter_numbers_is_measured(monkeypatch):
    monkeypatch.setattr(peak, "measured_flops", lambda accelerator, dtype: 5e12)
    h200 = Device("gpu", "NVIDIA H200", 139.0, True)
    assert find_peak(h200, "32-true").flops == 67e12
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert find_peak(h200, "32-true").flops == 5e12
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_cpu_is_measured():
    found = find_peak(find_device("cpu"), "32-true")
    assert 1e8 < found.flops < 1e14
    assert found.source == "a float32 matrix product measured here"


def test_costs_are_told_in_one_line():
    cost = Cost(105e9, peak.Peak(989e12, "the peak of NVIDIA H200 in bfloat16"))
    assert cost.most_images == pytest.approx(9419, rel=1e-3)
    assert cost.describe() == (
        "105 GFLOP for an image, forward and backward; perf/mfu is the part of 989 TFLOP/s, "
        "the peak of NVIDIA H200 in bfloat16"
    )
