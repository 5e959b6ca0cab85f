"""What this machine's processor and memory are, from the standard library, in a few milliseconds."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from swift.api import DeviceInfo

TFLOPS_PER_CORE = 0.03
"""A guess for time estimates: an AVX2 core sustains about 30 GFLOP/s in training. AVX-512 and AMX cores do several times
that, small models much less."""

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""x86's two and ARM's: any of them multiplies bfloat16 in hardware."""


def probe() -> DeviceInfo:
    """One device: the cores and the memory that this process may use. Never raises."""
    cores = core_count()
    memory = memory_bytes()
    facts: dict[str, object] = {
        "device.count": 1, "device.tflops": round(cores * TFLOPS_PER_CORE, 3), "device.fast_dtypes": fast_dtypes(),
    }  # fmt: skip
    if memory:
        facts["device.memory"] = memory
    return DeviceInfo(count=1, names=(f"{processor_name()} ({cores} cores)",), memory=memory, facts=facts)


def core_count(cgroup: Path = CGROUP) -> int:
    """Cores of this process: the machine's, limited by affinity and by the container's quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = 0, 100_000
    try:  # cgroup v2: "max 100000" or "200000 100000"
        words = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        quota = _number(cgroup / "cpu" / "cpu.cfs_quota_us")
        period = _number(cgroup / "cpu" / "cpu.cfs_period_us") or period
    if quota > 0:
        cores = min(cores, -(-quota // period))
    return max(cores, 1)


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Physical memory, or the container's limit where that is less; 0 where the system does not tell."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        physical = 0
    limits = [_number(cgroup / "memory.max"), _number(cgroup / "memory" / "memory.limit_in_bytes")]
    return min((n for n in (physical, *limits) if n > 0), default=0)


def fast_dtypes(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """float32, and bfloat16 where the processor multiplies it; elsewhere float32 is less work (swift_device_cpu.products)."""
    flags = _cpuinfo("flags", cpuinfo) or _cpuinfo("Features", cpuinfo)
    return ("float32", "bfloat16") if BFLOAT16_FLAGS & set(flags.split()) else ("float32",)


def processor_name() -> str:
    if name := _cpuinfo("model name", CPUINFO):
        return name
    return platform.machine() or "CPU"


def _cpuinfo(key: str, cpuinfo: Path) -> str:
    """The first value of a key; "" where the system has no such file (not Linux)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _number(file: Path) -> int:
    """The integer in a file; 0 where there is none ("max", no such file)."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
