"""However a step is divided, it trains on the same rows; whatever the layout, on the same labels."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from swift.api import Batch
from swift.data.batches import IGNORED, Prefetch, StepLoader, TokenRow, Units, choose_units, collate, evaluation_batches, moved
from swift.data.packing import Groups
from swift.errors import ConfigError, DataError
from swift.testing.tiny import tiny_folder


class Rows:
    """Row r is the tokens r, r, ... with its own length; its first token is not trained on."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths, np.int32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full(self.lengths[index], index + 1, np.int32)
        weights = np.ones(len(ids), np.float32)
        weights[:1] = 0
        return ids, weights

    def segments(self, index: int) -> np.ndarray:
        return self.lengths[index : index + 1]

    def values(self, index: int) -> dict[str, float]:
        return {}


def singles(rows: Rows, layout: str) -> Units:
    return Units(layout, Groups.singles(len(rows.lengths)), "")  # type: ignore[arg-type]


def labels(batches: list[Batch]) -> Counter[int]:
    return Counter(int(t) for b in batches for t in b.labels[b.labels != IGNORED])


LENGTHS = [int(n) for n in np.random.default_rng(0).integers(2, 30, size=37)]
WAYS = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2), (1, 2, 4), (2, 1, 4)]


@pytest.mark.parametrize("layout", ["padded", "padding_free", "packed"])
@pytest.mark.parametrize(("micro", "accumulation", "world"), WAYS)
def test_a_step_is_the_same_however_it_is_divided(layout: str, micro: int, accumulation: int, world: int) -> None:
    rows = Rows(LENGTHS)
    units = (
        choose_units(rows, "packed", packing_length=60, keeps_documents_apart=True)
        if layout == "packed"
        else singles(rows, layout)
    )
    whole = StepLoader(rows, units, micro_batch=8, accumulation=1)
    ranks = [
        StepLoader(rows, units, micro_batch=micro, accumulation=accumulation, world_size=world, rank=rank)
        for rank in range(world)
    ]
    for step in range(2 * whole.steps_per_epoch):
        shares = [loader.step(step) for loader in ranks]
        assert labels([b for share in shares for b in share]) == labels(whole.step(step))
        assert len({len(share) for share in shares}) == 1, "each rank has as many micro-batches"
        assert sum(b.num_labels for share in shares for b in share) == sum(b.num_labels for b in whole.step(step))
        assert sum(b.num_tokens for share in shares for b in share) == sum(b.num_tokens for b in whole.step(step))


def test_an_epoch_holds_each_row_once_in_its_own_order() -> None:
    rows = Rows(LENGTHS)
    loader = StepLoader(rows, singles(rows, "padded"), micro_batch=2, accumulation=4)
    epochs = [[int(u) for k in range(5) for u in loader.units_of(5 * e + k)] for e in range(3)]
    assert loader.steps_per_epoch == 5 and len(loader.units_of(4)) == 37 - 32, "the rest is a step of its own"
    assert all(sorted(order) == list(range(37)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    plain = StepLoader(rows, singles(rows, "padded"), micro_batch=8, accumulation=1, shuffle=False)
    assert list(plain.units_of(5)) == list(range(8))


def test_a_step_depends_on_nothing_before_it() -> None:
    rows = Rows(LENGTHS)

    def make(seed: int = 42) -> StepLoader:
        return StepLoader(rows, singles(rows, "padding_free"), micro_batch=2, accumulation=2, seed=seed)

    through, resumed = make(), make()
    steps = [through.step(k) for k in range(30)]
    for k in (29, 3, 17, 3):
        for a, b in zip(steps[k], resumed.step(k), strict=True):
            assert torch.equal(a.labels, b.labels) and torch.equal(a.inputs["input_ids"], b.inputs["input_ids"])
    assert any(not np.array_equal(make(43).units_of(k), through.units_of(k)) for k in range(3))


@pytest.mark.parametrize(("micro", "accumulation", "world", "passes"), [(1, 8, 1, 3), (2, 4, 1, 2), (1, 4, 2, 2), (8, 1, 1, 1)])
def test_joined_rows_take_few_passes_of_no_more_tokens(micro: int, accumulation: int, world: int, passes: int) -> None:
    """63 tokens: row by row in passes of 30 at most, by twos of 35; on two ranks 33 and 30 or so."""
    rows = Rows([5, 5, 30, 5, 5, 5, 4, 4])
    shares = [
        StepLoader(
            rows, singles(rows, "padding_free"), micro_batch=micro, accumulation=accumulation, world_size=world, rank=rank
        ).step(0)
        for rank in range(world)
    ]  # fmt: skip
    assert [len(share) for share in shares] == [passes] * world
    most = sum(sorted(rows.lengths.tolist())[-micro:])
    assert all(batch.labels.numel() <= most for share in shares for batch in share)
    assert sum(batch.num_rows for share in shares for batch in share) == 8


def test_a_rank_without_rows_gets_one_without_labels() -> None:
    rows = Rows([5, 4, 3])
    shares = [
        StepLoader(rows, singles(rows, "padded"), micro_batch=2, accumulation=1, world_size=4, rank=r, shuffle=False).step(0)
        for r in range(4)
    ]
    assert [len(s) for s in shares] == [1] * 4
    assert [s[0].num_labels for s in shares] == [4, 3, 2, 0]
    assert [s[0].num_tokens for s in shares] == [5, 4, 3, 0]
    assert all(bool((s[0].labels == IGNORED).all()) and s[0].inputs["input_ids"].numel() for s in shares[3:])


def test_labels_are_shifted_inside_each_document() -> None:
    rows = [
        TokenRow(np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.float32)),
        TokenRow(np.array([8, 9], np.int32), np.array([1, 1], np.float32)),
    ]
    flat = collate(rows, "padding_free")
    assert flat.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert flat.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert flat.labels.tolist() == [[6, 7, IGNORED, 9, IGNORED]]
    assert "attention_mask" not in flat.inputs and flat.loss_weight is None
    assert (flat.num_labels, flat.num_tokens) == (3, 5)
    padded = collate(rows, "padded", pad_token_id=1)
    assert padded.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 1]]
    assert padded.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded.labels.tolist() == [[6, 7, IGNORED], [9, IGNORED, IGNORED]]
    assert (padded.num_labels, padded.num_tokens) == (3, 5)


@pytest.mark.parametrize("layout", ["padded", "padding_free", "packed"])
@pytest.mark.parametrize("silent", [False, True])
def test_what_kernels_ask_for_is_known_before_the_step(layout: str, silent: bool) -> None:
    """Positions of labels, and where documents end: no question to the device is left."""
    rows = [
        TokenRow(np.arange(1, n + 1), np.append(0.0, np.ones(n - 1)), parts) for n, parts in ((7, None), (9, [4, 5]), (2, None))
    ]
    for batch in (made := collate(rows, layout, silent=silent), moved(made, torch.Tensor.clone)):  # type: ignore[arg-type]
        assert batch.label_positions is not None and batch.longest_document == 7
        assert batch.label_positions.dtype == torch.int64 and len(batch.label_positions) == batch.num_labels
        assert batch.label_positions.tolist() == (batch.labels.flatten() != IGNORED).nonzero().squeeze(1).tolist()
        if layout == "padded":
            assert batch.bounds is None
        else:
            assert batch.bounds is not None and batch.bounds.dtype == torch.int32
            assert batch.bounds.tolist() == [0, 7, 11, 16, 18]
            starts = (batch.inputs["position_ids"][0] == 0).nonzero().squeeze(1).tolist()
            assert batch.bounds.tolist() == [*starts, batch.labels.numel()]


def test_weights_other_than_one_are_kept() -> None:
    batch = collate([TokenRow(np.array([5, 6, 7], np.int32), np.array([1, 0.5, 0], np.float32))], "padded")
    assert batch.loss_weight is not None and batch.loss_weight.tolist() == [[0.5, 0.0, 0.0]]
    assert batch.labels.tolist() == [[6, IGNORED, IGNORED]]


PAIR = TokenRow(
    np.array([5, 6, 7, 5, 8, 9, 4], np.int32), np.array([0, 1, 1, 1, 1, 0.5, 1], np.float32), np.array([3, 4]), {"margin": 0.25}
)  # fmt: skip
PLAIN = TokenRow(np.array([1, 2], np.int32), np.array([0, 1], np.float32))
X = IGNORED


def test_documents_of_a_row_stay_apart_and_together() -> None:
    """Written out by hand: no label crosses from one document to the next, though the second one's first token has a weight."""
    flat = collate([PAIR, PLAIN], "packed")
    assert flat.inputs["input_ids"].tolist() == [[5, 6, 7, 5, 8, 9, 4, 1, 2]]
    assert flat.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1]]
    assert flat.labels.tolist() == [[6, 7, X, 8, 9, 4, X, 2, X]]
    assert flat.loss_weight is not None and flat.loss_weight.tolist() == [[1, 1, 0, 1, 0.5, 1, 0, 1, 0]]
    assert flat.documents is not None and flat.documents.tolist() == [[0, 0, 0, 1, 1, 1, 1, 2, 2]]
    padded = collate([PAIR, PLAIN], "padded", pad_token_id=3)
    assert padded.inputs["input_ids"].tolist() == [[5, 6, 7, 3], [5, 8, 9, 4], [1, 2, 3, 3]]
    assert padded.inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert padded.labels.tolist() == [[6, 7, X, X], [8, 9, 4, X], [2, X, X, X]]
    assert padded.documents is not None and padded.documents.tolist() == [[0, 0, 0, -1], [1, 1, 1, 1], [2, 2, -1, -1]]
    for batch in (flat, padded):
        assert batch.document_rows is not None and batch.document_rows.tolist() == [0, 0, 1]
        assert (batch.num_rows, batch.num_labels, batch.num_tokens) == (2, 6, 9)
        assert batch.values["margin"].tolist() == pytest.approx([0.25, float("nan")], nan_ok=True)


def test_a_silent_batch_counts_nothing() -> None:
    batch = collate([PAIR], "padded", silent=True)
    assert (batch.num_rows, batch.num_labels, batch.num_tokens) == (0, 0, 0)
    assert bool((batch.labels == IGNORED).all()) and batch.document_rows is not None


class Pairs:
    """Row r is two documents, of r + 2 and 3 tokens."""

    lengths = np.arange(5, 12, dtype=np.int32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.lengths[index], index + 1, np.int32), np.ones(self.lengths[index], np.float32)

    def segments(self, index: int) -> np.ndarray:
        return np.array([index + 2, 3], np.int32)

    def values(self, index: int) -> dict[str, float]:
        return {"number": float(index)}


@pytest.mark.parametrize("layout", ["padded", "padding_free", "packed"])
def test_a_pair_is_one_row_of_packs_and_of_evaluation(layout: str) -> None:
    rows = Pairs()
    units = choose_units(rows, layout, packing_length=20, keeps_documents_apart=True)  # type: ignore[arg-type]
    assert units.members.sums(rows.lengths).max() <= 20
    trained = StepLoader(rows, units, micro_batch=2, accumulation=9).step(0)
    held_out = evaluation_batches(rows, layout, batch_size=2, world_size=2, rank=0)  # type: ignore[arg-type]
    other = evaluation_batches(rows, layout, batch_size=2, world_size=2, rank=1)  # type: ignore[arg-type]
    for batches in (trained, [*held_out, *other]):
        numbers = sorted(n for batch in batches for n in batch.values["number"][: batch.num_rows].tolist())
        assert numbers == list(range(7)) and sum(batch.num_rows for batch in batches) == 7
        assert sum(batch.num_labels for batch in batches) == sum(rows.lengths) - 2 * 7
        for batch in batches:
            assert batch.document_rows is not None
            assert batch.document_rows.tolist() == [r for r in range(len(batch.document_rows) // 2) for _ in range(2)]


def test_the_next_steps_are_made_ahead_and_faults_come_through() -> None:
    made: list[int] = []
    gate = threading.Event()

    class Source:
        def step(self, step: int) -> list[Batch]:
            if step == 5:
                raise DataError("row 5 is broken")
            made.append(step)
            if step == 3:
                gate.set()
            return [collate([PLAIN], "padded")]

    with Prefetch(Source(), first=1, last=9, depth=2) as steps:  # type: ignore[arg-type]
        assert gate.wait(10), "two wait in the queue, a third is in hand, before anybody asks"
        assert made == [1, 2, 3]
        assert [len(steps.step(k)) for k in range(1, 5)] == [1] * 4
        with pytest.raises(ValueError, match="5 is next"):
            steps.step(3)
        with pytest.raises(DataError, match="row 5 is broken"):
            steps.step(5)
    before = threading.active_count()
    with Prefetch(Source(), first=0, last=3) as steps:  # type: ignore[arg-type]
        steps.step(0)
    assert threading.active_count() == before, "left early, its thread is gone"


def test_the_layout_is_chosen_and_explained() -> None:
    rows = Rows([10] * 400)
    many = choose_units(rows, packing_length=20, keeps_documents_apart=True, rows_per_step=4)
    assert many.layout == "packed" and len(many) == 200 and "100.0 % full" in many.why
    few = choose_units(rows, packing_length=100, keeps_documents_apart=True, rows_per_step=4)
    assert few.layout == "padding_free" and len(few) == 400 and "10 optimizer steps" in few.why
    assert choose_units(rows, packing_length=100, keeps_documents_apart=True, rows_per_step=4, epochs=5).layout == "packed"
    mixes = choose_units(rows, packing_length=20, keeps_documents_apart=False)
    assert mixes.layout == "padded" and "would mix documents" in mixes.why
    slow = choose_units(rows, packing_length=20, keeps_documents_apart=True, joining_pays=False)
    assert slow.layout == "padded" and len(slow) == 400 and "like length" in slow.why
    joined = choose_units(rows, "unpacked", packing_length=20, keeps_documents_apart=True, rows_per_step=4)
    assert joined.layout == "padding_free" and len(joined) == 400 and joined.why == "padding-free rows"
    for case in ({"keeps_documents_apart": False}, {"keeps_documents_apart": True, "joining_pays": False}):
        assert choose_units(rows, "unpacked", packing_length=20, **case).layout == "padded"
    for asked in ("packed", "padding_free"):
        with pytest.raises(ConfigError, match="would mix the documents"):
            choose_units(rows, asked, packing_length=20, keeps_documents_apart=False)  # type: ignore[arg-type]


def test_evaluation_goes_through_all_rows_on_all_ranks() -> None:
    rows = Rows(LENGTHS)
    shares = [list(evaluation_batches(rows, "padded", batch_size=4, rank=r, world_size=2)) for r in range(2)]
    assert len(shares[0]) == len(shares[1]) == 5
    assert labels(shares[0] + shares[1]) == Counter({r + 1: n - 1 for r, n in enumerate(LENGTHS)})
    assert len(list(evaluation_batches(rows, "packed", batch_size=4, limit=3))) == 3


def test_all_layouts_give_a_model_the_same_loss(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(tmp_path), dtype=torch.float32).eval()
    rng = np.random.default_rng(1)
    texts = [rng.integers(5, 200, size=n).astype(np.int32) for n in rng.integers(2, 20, size=6)]

    class Texts:
        lengths = np.array([len(t) for t in texts])

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return texts[index], np.ones(len(texts[index]), np.float32)

        def segments(self, index: int) -> np.ndarray:
            return self.lengths[index : index + 1]

        def values(self, index: int) -> dict[str, float]:
            return {}

    rows = Texts()
    totals = []
    for layout, micro in (("padded", 1), ("padded", 6), ("padding_free", 6), ("packed", 2)):
        units = choose_units(rows, layout, packing_length=30, keeps_documents_apart=True)  # type: ignore[arg-type]
        loader = StepLoader(rows, units, micro_batch=micro, accumulation=6)
        with torch.no_grad():
            totals.append(sum(
                torch.nn.functional.cross_entropy(
                    model(**b.inputs, use_cache=False).logits.flatten(0, 1), b.labels.flatten(), reduction="sum"
                ).item()
                for b in loader.step(0)
            ))  # fmt: skip
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-5)
