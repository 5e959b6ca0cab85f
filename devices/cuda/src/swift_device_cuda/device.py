"""NVIDIA GPUs (and AMD's, which torch serves under the same name) as a device."""

from __future__ import annotations

import torch

from swift.api import Device, Memory, ModelError


class CudaDevice(Device):
    def setup(self, local_rank: int) -> torch.device:
        if not torch.cuda.is_available():
            built = torch.version.cuda or torch.version.hip
            reason = "the driver shows none" if built else f"torch {torch.__version__} is built without CUDA"
            raise ModelError(
                f"no CUDA device here: {reason}", fix="`swift doctor` shows what was found; --device cpu runs anyway"
            )
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise ModelError(
                f"process {local_rank} asks for GPU {local_rank}, and there are {count}",
                fix=f"--nproc_per_node {count}, or look at CUDA_VISIBLE_DEVICES",
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)

    def memory(self) -> Memory:
        """Bytes that torch's allocator holds on this process's GPU, their peak, and the GPU's memory."""
        _, total = torch.cuda.mem_get_info()
        return Memory(used=torch.cuda.memory_reserved(), peak=torch.cuda.max_memory_reserved(), total=total)

    def dtypes(self) -> tuple[str, ...]:
        """float16 stands last: without loss scaling its gradients underflow."""
        if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
            return ("bfloat16", "float32", "float16")
        return ("float32", "float16")

    def attention(self) -> tuple[str, ...]:
        """FlashAttention 3 needs Hopper (9.0), FlashAttention 2 and torch's variable-length kernel Ampere (8.0); ROCm has a
        FlashAttention 2 of its own."""
        if torch.version.hip:
            return ("flash_attention_2", "sdpa", "eager")
        major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
        flash = ("flash_attention_3",) * (major == 9) + ("flash_attention_2", "torch_varlen") * (major >= 8)
        return (*flash, "sdpa", "eager")

    def collective_backend(self) -> str:
        return "nccl"

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def rng_state(self) -> dict[str, torch.Tensor]:
        """State of this process's GPU generator."""
        return {"cuda": torch.cuda.get_rng_state()}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None:
        if "cuda" in state:  # absent where the run was started on another kind of device
            torch.cuda.set_rng_state(state["cuda"].cpu())
