"""TensorBoard."""

from swift.api import TrackerSpec, hookimpl


@hookimpl
def swift_trackers():
    return [
        TrackerSpec(
            name="tensorboard",
            impl="swift_tracker_tensorboard.tracker:TensorBoard",
            settings="swift_tracker_tensorboard.settings:TensorBoardSettings",
            summary="Event files under RUN/tensorboard, for `tensorboard --logdir RUN`.",
            aliases=("tb",),
        )
    ]
