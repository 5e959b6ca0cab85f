"""The vocabulary of facts: what components contribute to a plan, and what needs and clashes are written over.

A plugin adds to it by `declares` of the specs that contribute the fact, under its own prefix (`acme.x`); a name that nobody
declares, and a value of another type, fail the contract test and are noted by `swift doctor`.
"""

from __future__ import annotations

from swift.api.specs import Fact

FACTS: dict[str, Fact] = {
    f.name: f
    for f in (
        Fact("device.collectives", "str list", "collective backends that work on it (gloo, nccl, hccl)"),
        Fact("device.dtypes", "str list", "dtypes that can be trained in"),
        Fact(
            "device.fast_dtypes",
            "str list",
            "those of device.dtypes that it has arithmetic for; the others are slower than float32",
        ),
        Fact("device.attention", "str list", "attention implementations, best first"),
        Fact("device.memory", "int", "bytes of memory of one device"),
        Fact("device.count", "int", "devices present"),
        Fact("device.tflops", "float", "sustained dense 16-bit teraflops of one device, for the time estimate"),
        Fact("device.peak_tflops", "float", "dense 16-bit teraflops of one device by its data sheet, for utilisation"),
        Fact("quant.bits", "int", "bits of the quantized base weights"),
        Fact("quant.trainable", "bool", "gradients flow through the quantized base"),
        Fact("quant.method", "str", "name of the quantization scheme"),
        Fact("tuner.artifact", "str", "adapter or model"),
        Fact("tuner.mergeable", "bool", "the adapter can be folded into the base weights"),
        Fact("tuner.switchable", "bool", "the base's answers can be had from the tuned model, by switching the adapter off"),
        Fact("tuner.trainable", "str", "low-rank, all or part"),
        Fact("parallel.world_size", "int", "processes of the run"),
        Fact("parallel.stage", "int", "ZeRO stage"),
        Fact("parallel.shards", "str list", "what is split over ranks"),
        Fact("model.architecture", "str", "the string in config.json"),
        Fact("model.modality", "str list", "text, image, video, audio"),
        Fact("model.device_map", "bool", "layers are spread over devices by name"),
        Fact("model.dtype", "str", "dtype that the weights are trained in"),
        Fact("model.upcast_from", "str", "dtype of the checkpoint, where it is trained in a wider one and saved as it came"),
        Fact("model.attention", "str", "attention implementation that was asked for"),
        Fact("data.batching", "str", "auto, unpacked, packed, padding_free or padded"),
        Fact("data.streaming", "bool", "rows are read while training"),
        Fact("engine.streaming", "bool", "text is given out as it is made"),
        Fact("engine.multi_adapter", "bool", "serves several adapters at once"),
        Fact("objective.reference", "bool", "needs a frozen reference model"),
    )
}
