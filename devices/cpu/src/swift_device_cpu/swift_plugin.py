from swift.api import DeviceSpec, hookimpl


@hookimpl
def swift_devices():
    return [
        DeviceSpec(
            name="cpu",
            impl="swift_device_cpu.device:CpuDevice",
            settings="swift_device_cpu.settings:CpuSettings",
            probe="swift_device_cpu.probe:probe",
            summary="Any processor that torch runs on",
            priority=0,
            requires=("torch>=2.6",),
            facts={
                "device.collectives": ("gloo",),
                "device.dtypes": ("float32", "bfloat16"),
                "device.attention": ("torch_varlen", "sdpa", "eager"),
            },
        )
    ]
