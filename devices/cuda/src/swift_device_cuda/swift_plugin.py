from swift.api import DeviceSpec, hookimpl


@hookimpl
def swift_devices():
    return [
        DeviceSpec(
            name="cuda",
            impl="swift_device_cuda.device:CudaDevice",
            probe="swift_device_cuda.probe:probe",
            summary="NVIDIA GPUs, and AMD GPUs where torch is built for ROCm",
            aliases=("gpu", "rocm"),
            priority=100,
            requires=("torch>=2.6",),
            facts={
                "device.collectives": ("nccl",),
                "device.dtypes": ("bfloat16", "float32", "float16"),
                "device.attention": ("flash_attention_3", "flash_attention_2", "torch_varlen", "sdpa", "eager"),
            },
        )
    ]
