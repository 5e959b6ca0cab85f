from __future__ import annotations

import subprocess
import sys
import time

import torch

from swift.api import CONTRACTS, FACTS
from swift_device_cpu import probe as probing
from swift_device_cpu.device import CpuDevice
from swift_device_cpu.swift_plugin import swift_devices


def device() -> CpuDevice:
    return CpuDevice(None, "cpu")


def test_door_and_probe_import_no_torch_and_answer_within_50_ms():
    code = (
        "import sys, time; import swift_device_cpu.swift_plugin, swift_device_cpu.probe as p\n"
        "start = time.perf_counter(); info = p.probe(); ms = 1000 * (time.perf_counter() - start)\n"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules, 'heavy import'\n"
        "assert info.count == 1 and info.memory > 0; print(ms)"
    )
    best = min(float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) for _ in range(2))
    assert best < 50


def test_spec_names_real_objects_and_known_facts():
    (spec,) = swift_devices()
    assert spec.name == "cpu" and issubclass(CpuDevice, CONTRACTS["device"])
    info = probing.probe()
    assert set(spec.facts) | set(info.facts) <= set(FACTS)
    assert spec.facts["device.dtypes"] == device().dtypes()
    assert spec.facts["device.attention"] == device().attention()
    assert spec.facts["device.collectives"] == (device().collective_backend(),)


def test_container_limits_are_respected(tmp_path):
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert probing.memory_bytes(tmp_path) == 1 << 30
    assert probing.core_count(tmp_path) <= 2


def test_container_without_limits_leaves_the_machine(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    missing = tmp_path / "nowhere"
    assert probing.memory_bytes(tmp_path) == probing.memory_bytes(missing) > 0
    assert probing.core_count(tmp_path) == probing.core_count(missing) >= 1


def test_old_cgroup_files_are_read(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1048576")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert probing.memory_bytes(tmp_path) == 1 << 20
    assert probing.core_count(tmp_path) == 1


def test_memory_grows_with_a_tensor():
    cpu = device()
    before = cpu.memory()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    after = cpu.memory()
    assert after.used - before.used > 48 << 20
    assert after.peak >= after.used and after.total >= after.used
    del block


def test_every_offered_dtype_trains():
    cpu = device()
    for dtype in cpu.dtypes():
        weight = torch.ones(8, 8, dtype=getattr(torch, dtype), device=cpu.setup(0), requires_grad=True)
        (torch.ones(2, 8, dtype=weight.dtype) @ weight).sum().backward()
        assert torch.equal(weight.grad, torch.full_like(weight, 2))


def test_rng_state_is_empty_because_core_saves_the_cpu_generator():
    cpu = device()
    cpu.set_rng_state(cpu.rng_state())
    cpu.synchronize()
    cpu.empty_cache()
    assert cpu.rng_state() == {}


def test_probe_is_fast_in_process():
    start = time.perf_counter()
    probing.probe()
    assert time.perf_counter() - start < 0.05


def test_bfloat16_is_fast_only_where_the_processor_multiplies_it(tmp_path):
    for flags, fast in (
        ("flags\t\t: fpu avx2 avx512f", ("float32",)),
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16", ("float32", "bfloat16")),
        ("Features\t: fp asimd bf16", ("float32", "bfloat16")),
        ("", ("float32",)),
    ):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n", encoding="utf-8")
        assert probing.fast_dtypes(tmp_path / "cpuinfo") == fast
    assert probing.fast_dtypes(tmp_path / "nowhere") == ("float32",)
    assert set(probing.probe().facts["device.fast_dtypes"]) <= set(CpuDevice(None, "cpu").dtypes())
