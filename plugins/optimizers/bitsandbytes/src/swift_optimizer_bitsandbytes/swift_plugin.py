"""Optimizers of bitsandbytes."""

from swift.api import OptimizerSpec, hookimpl

REQUIRES = ("bitsandbytes>=0.48",)
DOCS = "https://huggingface.co/docs/bitsandbytes/main/en/optimizers"


def _spec(name, cls, summary, bytes_, *aliases):
    return OptimizerSpec(
        name=name,
        impl=f"swift_optimizer_bitsandbytes.optimizers:{cls}",
        settings=f"swift_optimizer_bitsandbytes.settings:{'Lion' if 'lion' in name else 'AdamW'}Settings",
        summary=summary,
        aliases=aliases,
        docs=DOCS,
        requires=REQUIRES,
        state_bytes_per_parameter=bytes_,
        fixed_state=True,
    )


@hookimpl
def swift_optimizers():
    paged = "whose state the driver moves to the host where the device is full (CUDA)."
    return [
        _spec("adamw_8bit", "AdamW8bit", "AdamW with both moments in 8 bits.", 2.03, "adamw_bnb_8bit", "adamw_torch_8bit"),
        _spec("paged_adamw_8bit", "PagedAdamW8bit", f"AdamW with both moments in 8 bits, {paged}", 2.03),
        _spec("paged_adamw_32bit", "PagedAdamW32bit", f"AdamW {paged}", 8.0, "paged_adamw"),
        _spec("lion_8bit", "Lion8bit", "Lion with its momentum in 8 bits.", 1.02),
        _spec("paged_lion_8bit", "PagedLion8bit", f"Lion with its momentum in 8 bits, {paged}", 1.02),
    ]
