"""ms-swift's defaults where they shape the result and differ from Swift's. Its words stand in `swift.config.aliases`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swift.config.schema import sections_of
from swift.migrate.translate import Default

OLDER = {
    "sft_type", "model_id_or_path", "batch_size", "eval_batch_size", "lora_dropout_p", "lora_target_modules",
    "train_dataset_sample", "custom_train_dataset_path", "check_dataset_strategy", "dataset_test_ratio",
    "self_cognition_sample", "template_type",
}  # fmt: skip
"""Words of releases 1 and 2 alone."""


def defaults(verb: str, values: Mapping[str, Any], words: Iterable[str] = ()) -> Iterable[Default]:
    """Of release 4.6, or of release 2 where the command's words are."""
    if "train" not in sections_of(verb):
        return
    if verb.startswith("megatron "):
        return
    if not OLDER.isdisjoint(words):
        if not values.get("train.max_steps"):
            yield Default("train.epochs", 1.0, "num_train_epochs of release 2")
        if not values.get("train.warmup_steps"):
            yield Default("train.warmup_ratio", 0.05, "warmup_ratio of release 2")
        if verb != "pt":
            yield Default("data.max_length", 2048, "max_length of release 2")
        points = values.get("evaluation.eval_steps", 50)
        yield from (
            Default("data.overlong", "drop", "truncation_strategy delete"),
            Default("data.batching", "unpacked", "packing false"),
            Default("evaluation.eval_steps", 50, "eval_steps of release 2"),
            Default("checkpoint.save_steps", points, "save_steps of release 2, which is eval_steps"),
            Default("checkpoint.save_total_limit", 2, "save_total_limit of release 2"),
        )
        return
    if not values.get("train.max_steps"):
        yield Default("train.epochs", 3.0, "num_train_epochs")
    if not values.get("train.warmup_steps"):
        yield Default("train.warmup_ratio", 0.0, "warmup_ratio")
    yield from (
        Default("data.overlong", "drop", "truncation_strategy delete"),
        Default("data.batching", "unpacked", "packing false"),
        Default("checkpoint.save_steps", 500, "save_steps"),
        Default("checkpoint.save_total_limit", 0, "save_total_limit, which keeps all"),
    )
