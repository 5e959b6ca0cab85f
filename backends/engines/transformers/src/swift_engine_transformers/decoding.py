"""What `generate` is given beyond transformers' own parts: seeded sampling per row, stop strings, text as it is made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)  # fmt: skip
from transformers.generation.streamers import BaseStreamer

from swift.api import Generation


class Sample(LogitsProcessor):
    """Temperature, top-k, top-p, then Gumbel noise: the arg max of the outcome is a sample of the distribution.

    `torch.multinomial` draws a whole batch from one generator, so that an answer would depend on its neighbours. Here each row
    has its own: a seed gives the same answer alone, in any batch and after a resume. (Gumbel-max trick: Maddison et al., 2014.)
    """

    def __init__(self, generation: Generation, seeds: Sequence[int | None]) -> None:
        self.warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(generation.temperature))]
        if generation.top_k:
            self.warpers.append(TopKLogitsWarper(generation.top_k))
        if generation.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(generation.top_p))
        self.generators = [torch.Generator() for _ in seeds]
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed) if seed is not None else generator.seed()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        noise = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self.generators])
        return scores.float() - noise.clamp_min(1e-30).log().to(scores.device)


class Stop(StoppingCriteria):
    """Ends a row at a stop string, and every row when `cancelled` is set.

    Args:
        prompt_length: Padded length of the prompts, which are not searched.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_length: int, rows: int) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.prompt_length = prompt_length
        self.cancelled = threading.Event()
        self.lengths: list[int | None] = [None] * rows
        """Tokens made when a stop string came, by row."""
        # A character takes at most four byte tokens; the last token may hold text before the stop string.
        self.window = 4 * max((len(s) for s in self.stop), default=0) + 4

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        if self.cancelled.is_set():
            return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        if self.stop:
            made = input_ids.shape[1] - self.prompt_length
            tails = input_ids[:, max(self.prompt_length, input_ids.shape[1] - self.window) :].tolist()
            for row, tail in enumerate(tails):
                if self.lengths[row] is None and any(s in text_of(self.tokenizer, tail) for s in self.stop):
                    self.lengths[row] = made
        return torch.tensor([n is not None for n in self.lengths], device=input_ids.device)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Text before the first stop string, and whether there was one."""
    places = [at for at in (text.find(s) for s in stop) if at >= 0]
    return (text[: min(places)], True) if places else (text, False)


def held_back(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of `text` that a stop string may begin with."""
    longest = 0
    for s in stop:
        for size in range(min(len(s) - 1, len(text)), longest, -1):
            if text.endswith(s[:size]):
                longest = size
                break
    return longest


class GrowingText:
    """Text of a growing list of ids, at a cost per token that does not grow with it.

    Only a window is decoded again: some tokenizers strip the first space, so a piece is the difference between the window with
    and without the new ids; a piece that ends amid a character waits for the rest of its bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        self._from = 0
        self._to = 0

    def push(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        known = text_of(self.tokenizer, self.ids[self._from : self._to])
        window = text_of(self.tokenizer, self.ids[self._from :])
        if len(window) > len(known) and not window.endswith("\ufffd"):
            self.text += window[len(known) :]
            self._from, self._to = self._to, len(self.ids)


class TokenQueue(BaseStreamer):
    """Hands ids of one row from the thread of `generate` to the reader; an exception travels the same way."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.items.put(value.flatten().tolist())
        self.prompt_seen = True

    def end(self) -> None:
        pass
