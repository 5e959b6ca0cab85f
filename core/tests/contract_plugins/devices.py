"""One right device (the CPU), and devices with one fault each."""

from __future__ import annotations

import torch

from swift.api import Device, Memory, ModelError


class Right(Device):
    def setup(self, local_rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Memory:
        return Memory(used=1 << 20, peak=1 << 21, total=1 << 30)

    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "bfloat16")

    def attention(self) -> tuple[str, ...]:
        return ("sdpa",)

    def collective_backend(self) -> str:
        return "gloo"


class Absent(Right):
    def setup(self, local_rank):
        raise ModelError("there is no such device")


class CrashesWhenAbsent(Right):
    def setup(self, local_rank):
        raise RuntimeError("driver error 999")


class LiesAboutDtypes(Right):
    def dtypes(self):
        return ("float32", "int8")


class SaysMoreThanItsSpec(Right):
    def dtypes(self):
        return ("float32", "bfloat16", "float64")


class NoTotal(Right):
    def memory(self):
        return Memory(used=1 << 31, peak=1 << 31, total=1 << 30)


class LosesGenerators(Right):
    def set_rng_state(self, state):
        torch.manual_seed(0)


class OtherBackend(Right):
    def collective_backend(self):
        return "nccl"


class SaysNothingOfKernels(Right):
    def choose_kernels(self, dtypes):
        return None


class ChoosesBadKernels(Right):
    def choose_kernels(self, dtypes):
        right = torch.mm

        def wrong_once(a, b):
            torch.mm = right
            return -right(a, b)

        torch.mm = wrong_once
        return "products are quick now"
