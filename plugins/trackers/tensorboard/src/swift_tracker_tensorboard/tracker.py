"""Metrics as TensorBoard event files."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from swift.api import Tracker


class TensorBoard(Tracker):
    """Writes under `RUN/tensorboard`; a resumed run adds a further file, which TensorBoard joins."""

    _writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, object]) -> None:
        self._writer = SummaryWriter(str(self.run_dir / "tensorboard"), flush_secs=self.settings.flush_secs)
        text = json.dumps(config, indent=2, default=str, ensure_ascii=False)
        self._writer.add_text("config", "```json\n" + text + "\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            self.start({})
        assert self._writer is not None
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, float]) -> None:
        if self._writer is not None:
            self._writer.add_text("summary", "\n".join(f"- {name}: {value}" for name, value in summary.items()))
            self._writer.close()
            self._writer = None
