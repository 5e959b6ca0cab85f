"""Optimizers of torch."""

from swift.api import OptimizerSpec, hookimpl


@hookimpl
def swift_optimizers():
    return [
        OptimizerSpec(
            name="adamw",
            impl="swift_optimizer_torch.optimizers:AdamW",
            settings="swift_optimizer_torch.settings:AdamWSettings",
            summary="AdamW with two moments per parameter.",
            aliases=("adamw_torch", "adamw_torch_fused"),
            state_bytes_per_parameter=8.0,
        ),
        OptimizerSpec(
            name="sgd",
            impl="swift_optimizer_torch.optimizers:SGD",
            settings="swift_optimizer_torch.settings:SGDSettings",
            summary="Stochastic gradient descent, with momentum if asked for.",
            state_bytes_per_parameter=0.0,
        ),
        OptimizerSpec(
            name="adafactor",
            impl="swift_optimizer_torch.optimizers:Adafactor",
            settings="swift_optimizer_torch.settings:AdafactorSettings",
            summary="Second moments kept as one row and one column per matrix: next to no state.",
            state_bytes_per_parameter=0.02,
        ),
    ]
