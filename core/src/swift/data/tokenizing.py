"""Texts to token ids, and spans of the texts to weights of the tokens. Right of the torch line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from swift.api.contracts.data import Example
from swift.data.offsets import Anchor, TokenBytes, weights_by_offsets
from swift.data.turns import Rendered
from swift.data.words import WordIds
from swift.errors import DataError

_USUALLY_SPELLED = 20
"""Rows after which a tokenizer whose tokens mostly do not spell the text is asked for offsets at once."""


class SpanTokenizer:
    """Ids as a tokenizer gives them. Weights from the bytes that the tokens stand for, or from offsets where those do not
    settle it, or without either from the ids of prefixes.

    Attributes:
        spelled: Documents whose weights the bytes settled (True), and others (False).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.spelled: Counter[bool] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        made_anew = ("_token_bytes", "_words")
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    def encode(self, documents: list[Rendered]) -> list[Example]:
        """Raises `DataError`."""
        if not self.tokenizer.is_fast:
            return [self._by_prefixes(document) for document in documents]
        usually_spelled = self.spelled[False] <= max(self.spelled[True], _USUALLY_SPELLED)
        return self._by_bytes(documents) if self._is_plain and usually_spelled else self._by_offsets(documents)

    def ids(self, texts: list[str], *, special: bool) -> Iterator[tuple[list[int], Sequence[Anchor]]]:
        """As the tokenizer's own call, without offsets and attention masks; with anchors where the ids spell the text."""
        if not texts:
            return
        if not self._is_plain:
            batch = self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
            yield from ((ids, ()) for ids in batch["input_ids"])
            return
        backend = self.tokenizer.backend_tokenizer
        remembered = self._words
        if self.tokenizer.split_special_tokens or (special and backend.num_special_tokens_to_add(False)):
            remembered = None
        known = [remembered.ids(text) if remembered else None for text in texts]
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        others = [text for text, found in zip(texts, known, strict=True) if found is None]
        encodings = iter(backend.encode_batch_fast(others, add_special_tokens=special))
        yield from ((next(encodings).ids, ()) if found is None else found for found in known)

    @property
    def _is_plain(self) -> bool:
        """Whether calling the tokenizer is calling its backend: no class in between changes it."""
        names = ("__call__", "_encode_plus", "set_truncation_and_padding")
        cls, base = type(self.tokenizer), PreTrainedTokenizerFast
        return issubclass(cls, base) and all(getattr(cls, name, None) is getattr(base, name, None) for name in names)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self.tokenizer.backend_tokenizer)

    @cached_property
    def _words(self) -> WordIds | None:
        return WordIds.of(self.tokenizer.backend_tokenizer)

    def _by_bytes(self, documents: list[Rendered]) -> list[Example]:
        examples: list[Any] = []
        texts = [d.text for d in documents]
        for document, (ids, anchors) in zip(documents, self.ids(texts, special=False), strict=True):
            weights = self._token_bytes.weights(document.text, ids, document.spans, anchors)
            self.spelled[weights is not None] += 1
            examples.append(None if weights is None else {"input_ids": ids, "loss_weight": weights})
        others = iter(self._by_offsets([d for d, example in zip(documents, examples, strict=True) if example is None]))
        return [next(others) if example is None else example for example in examples]

    def _by_offsets(self, documents: list[Rendered]) -> list[Example]:
        """As `encode`, by what the tokenizer says about where its tokens stand."""
        if not documents:
            return []
        batch = self.tokenizer(
            [d.text for d in documents], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
            verbose=False,
        )  # fmt: skip
        return [
            {"input_ids": ids, "loss_weight": weights_by_offsets(places, document.spans)}
            for document, ids, places in zip(documents, batch["input_ids"], batch["offset_mapping"], strict=True)
        ]

    def _by_prefixes(self, document: Rendered) -> Example:
        """The tokens of each prefix must be a prefix of the tokens of the whole."""

        def ids_of(text: str) -> list[int]:
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

        ids = ids_of(document.text)
        weights = [0.0] * len(ids)
        for start, stop, weight in document.spans:
            bounds = []
            for position in (start, stop):
                head = ids_of(document.text[:position])
                if ids[: len(head)] != head:
                    raise DataError("the tokenizer joins characters of the prompt and the answer, and gives no offsets",
                                    fix="use the model's fast tokenizer")  # fmt: skip
                bounds.append(len(head))
            weights[bounds[0] : bounds[1]] = [weight] * (bounds[1] - bounds[0])
        return {"input_ids": ids, "loss_weight": weights}
