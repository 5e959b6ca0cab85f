"""What is logged can be read back with TensorBoard's own reader."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swift_tracker_tensorboard.settings import TensorBoardSettings
from swift_tracker_tensorboard.tracker import TensorBoard


def run(folder, steps):
    tracker = TensorBoard(TensorBoardSettings(), "tensorboard", folder)
    tracker.start({"train": {"learning_rate": 1e-4}})
    for step in steps:
        tracker.log(step, {"loss": 1.0 / step, "learning_rate": 1e-4})
    tracker.finish({"loss": 0.5})


def test_scalars_and_config_are_read_back(tmp_path):
    run(tmp_path, (1, 2))
    run(tmp_path, (3,))  # a resumed run
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert b"learning_rate" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
