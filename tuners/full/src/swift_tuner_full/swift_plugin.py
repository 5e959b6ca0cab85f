"""All weights, or chosen ones."""

from swift.api import TunerSpec, hookimpl


@hookimpl
def swift_tuners():
    return [
        TunerSpec(
            name="full",
            impl="swift_tuner_full.full:Full",
            settings="swift_tuner_full.settings:FullSettings",
            summary="Train the model's own weights: all, or those that freeze and trainable leave.",
            artifact="model",
            identity_at_init=True,
            trainable="all",
            learning_rate=1e-5,
        )
    ]
