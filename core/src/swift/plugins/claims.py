"""What the fields of specs claim, and by what each claim is proved: the accounts of the contract kit.

Every field of every spec, and every fact of Swift's own, stands in exactly one table: proved by tests of the kit, a plain
description that promises nothing, or a claim that this version of the kit cannot try. Of the last, a spec that makes one fails
its contract. The kind "*" stands for the fields that all specs have. Left of the torch line: `swift plugin check` reads it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from swift.api.specs import Spec
from swift.plugins.resolver import SPEC_FACTS

Field = tuple[str, str]
"""(kind, field of its spec)."""

_JSON = ("test_spec_survives_json",)
_CONDITIONS = ("test_needs_and_clashes_are_over_known_facts",)
_ENTRY = ("test_catalog_entry_is_complete", "test_what_ships_is_what_the_entry_says")
_SAMPLE = ("test_sample_rows_fit_columns_and_tasks",)
_READ = ("test_every_row_is_readable_and_stable",)

PROVED: dict[Field, tuple[str, ...]] = {
    ("*", "name"): ("test_name_and_summary",),
    ("*", "summary"): ("test_name_and_summary",),
    ("*", "aliases"): ("test_name_and_summary",),
    ("*", "impl"): ("test_implementation_fulfils_the_contract",),
    ("*", "settings"): ("test_settings_are_strict_and_defaulted",),
    ("*", "facts"): ("test_facts_are_known", "test_facts_say_what_the_fields_say"),
    ("*", "declares"): ("test_facts_are_known",),
    ("*", "needs"): _CONDITIONS,
    ("*", "clashes"): _CONDITIONS,
    ("model", "loader"): ("test_catalog_entry_is_complete",),
    ("model", "generic"): ("test_logits_equal_transformers",),  # of a folder that is made on the spot
    ("model", "architecture"): _ENTRY,
    ("model", "parameters"): _ENTRY,
    ("model", "context_length"): _ENTRY,
    ("model", "folder"): _ENTRY,
    ("model", "linear_modules"): ("test_what_ships_is_what_the_entry_says",),
    ("model", "image_tokens"): (
        "test_image_tokens_are_those_of_the_processor",
        "test_image_tokens_need_no_torch",
        "test_no_image_tokens_are_guessed",
    ),
    ("dataset", "files"): _READ,
    ("dataset", "columns"): (*_SAMPLE, "test_every_field_is_read"),
    ("dataset", "rewrite"): _SAMPLE,
    ("dataset", "convert"): _SAMPLE,
    ("dataset", "sample"): _SAMPLE,
    ("dataset", "tasks"): ("test_the_rows_serve_each_task", *_SAMPLE),
    ("dataset", "rows"): ("test_the_number_of_rows_is_true",),
    ("dataset", "licence"): ("test_source_and_licence_are_named",),
    ("dataset", "source"): ("test_source_and_licence_are_named",),
    ("tuner", "artifact"): ("test_saved_result_answers_as_the_trained_model",),
    ("tuner", "mergeable"): ("test_merge_equals_the_tuned_model",),
    ("tuner", "identity_at_init"): ("test_identity_at_init",),
    ("tuner", "switchable"): ("test_disabled_answers_as_the_base", "test_disabled_does_not_spoil_gradients"),
    ("tuner", "trainable"): ("test_as_much_is_trained_as_the_spec_says",),
    ("objective", "columns"): ("test_the_columns_are_enough",),
    ("objective", "chat_template"): ("test_examples_are_well_formed",),
    ("objective", "requires_reference"): ("test_a_reference_is_announced",),
    ("parallel", "multi_process"): ("test_trajectory_equals_plain_pytorch", "test_weights_equal_plain_pytorch"),
    ("parallel", "launcher"): ("test_a_launcher_is_named",),
    ("parallel", "shards"): ("test_each_rank_holds_a_share",),
    ("device", "probe"): ("test_probe_never_raises_and_is_plausible", "test_probe_needs_no_torch"),
    ("engine", "streaming"): ("test_pieces_join_to_the_whole", "test_stop_strings_do_not_leak"),
    ("engine", "multi_adapter"): ("test_each_request_is_answered_by_its_adapter",),
    ("optimizer", "state_bytes_per_parameter"): ("test_state_is_as_large_as_the_spec_says",),
    ("optimizer", "fixed_state"): ("test_state_is_as_large_as_the_spec_says",),
    ("hub", "prefix"): ("test_the_prefix_is_its_own",),
}
"""Tests of the contract kit that a field's claim is proved by."""

PROVED_OF: dict[Field, dict[Any, str]] = {
    ("tuner", "trainable"): dict.fromkeys(("low-rank", "part"), "trainable is not all"),
}
"""Values that say more than is proved, and what is proved. Updates by low-rank factors may have full rank (DoRA, LoKr, OFT), so
that no measurement tells `low-rank` from `part`: the two are words."""

DESCRIPTIONS: dict[Field, str] = {
    ("*", "docs"): "a link",
    ("*", "api"): "read when plugins are found: a newer major version is refused there",
    ("*", "status"): "the author's own word for its maturity",
    ("*", "requires"): "a requirement, compared with what is installed before any import",
    ("model", "hub_ids"): "a place; nothing is fetched in tests",
    ("model", "chat"): "a hint for `swift chat`",
    ("model", "thinking"): "a hint for the chat template",
    ("dataset", "hub_ids"): "a place; nothing is fetched in tests",
    ("dataset", "subsets"): "names at the place where it is kept",
    ("dataset", "split"): "a name at the place where it is kept",
    ("dataset", "train_only"): "a wish about its use, which the planner keeps",
    ("task", "objective"): "what is trained where none is named",
    ("task", "loss"): "what is trained where none is named",
    ("task", "metrics"): "what is measured where none is named",
    ("task", "columns"): "a requirement on rows",
    ("task", "media"): "a requirement on rows",
    ("task", "general"): "which rows it takes",
    ("task", "answer"): "a requirement on rows",
    ("template", "file"): "a file; text in, text out is for tests of its own",
    ("template", "architectures"): "a list of uses",
    ("tuner", "learning_rate"): "a default",
    ("objective", "verbs"): "names of commands",
    ("objective", "learning_rate_factor"): "a default",
    ("device", "priority"): "a rank among devices",
    ("quantizer", "bits"): "which sizes may be named in a plan; no run quantizes yet",
    ("engine", "in_process"): "where it computes, not what it can do",
    ("hub", "priority"): "a rank among hubs",
    ("command", "group"): "a heading",
    ("command", "help"): "text",
}
"""Fields that promise nothing about behaviour, and what they are."""


class Untried(NamedTuple):
    """A claim that the kit has no test for.

    Args:
        values: Values, or members of a tuple, that claim it.
        why: What is missing.
        instead: What to write.
    """

    values: tuple[Any, ...]
    why: str
    instead: str


UNTRIED: dict[Field, Untried] = {
    ("quantizer", "trainable"): Untried(
        (True,),
        "no run loads a quantized model yet, so that there is no interface to send gradients through",
        "leave it False; your own tests may show the gradients, and the README may say so",
    ),
    ("parallel", "shards"): Untried(
        ("activations",), "its model is too small to split along", "name only what is tried: weights, gradients, optimizer"
    ),
    ("model", "modality"): Untried(
        ("image", "video", "audio"), "its models read text alone", 'say ("text",) of the loader; catalog entries may say more'
    ),
}  # fmt: skip
"""Claims that cannot be tried here; of a field that stands in PROVED too, only these values."""

FACTS_PROVED: dict[str, str] = {
    "device.collectives": "test_collective_backend_is_one_of_the_facts",
    "device.dtypes": "test_spec_and_device_say_the_same",
    "device.fast_dtypes": "test_spec_and_device_say_the_same",
    "device.attention": "test_spec_and_device_say_the_same",
    "device.memory": "test_probe_never_raises_and_is_plausible",
    "device.count": "test_probe_never_raises_and_is_plausible",
}
"""Facts of Swift's own that no field of a spec is, and the test of each."""

FACTS_DESCRIBED: dict[str, str] = {
    "device.tflops": "a number for time estimates, measured by its author",
    "device.peak_tflops": "the data sheet's number",
    "quant.bits": "chosen in the plan; no run quantizes yet",
    "quant.method": "a name",
    "model.architecture": "of the folder that is trained, read from its config.json",
    "model.modality": "of the folder that is trained",
    **dict.fromkeys(("parallel.world_size", "parallel.stage", "data.batching", "data.streaming"), "of the configuration"),
    **dict.fromkeys(("model.device_map", "model.dtype", "model.upcast_from", "model.attention"), "of the configuration"),
}
"""Facts of Swift's own that promise nothing about a plugin."""

FIELDS_OF_FACTS: dict[str, Field] = {
    fact: (kind, field)
    for kind, fields in SPEC_FACTS.items()
    for field, fact in fields.items()
    if fact not in FACTS_DESCRIBED
}  # fmt: skip
"""Facts that are a field's claim said again."""


def untried(spec: Spec) -> Iterator[tuple[str, str]]:
    """(claim, why it fails) for each claim of a spec that the kit cannot try. Pure data describes, it claims nothing."""
    for (kind, field), rule in UNTRIED.items():
        value = getattr(spec, field) if kind == spec.kind and spec.impl else None
        made = [v for v in (value if isinstance(value, tuple) else (value,)) if any(v is w or v == w for w in rule.values)]
        if made:
            said = field if made == [True] else f"{field} {', '.join(map(repr, made))}"
            yield (
                said,
                (
                    f"{spec.kind}:{spec.name} claims {said}, and this version's contract kit has no test for it: {rule.why}; "
                    f"{rule.instead}"
                ),
            )


def said_twice(spec: Spec) -> Iterator[str]:
    """Facts of a spec that claim what its fields do not."""
    for fact, value in spec.facts.items():
        kind, field = FIELDS_OF_FACTS.get(fact, ("", ""))
        if kind and kind != spec.kind:
            yield f"fact {fact} is a claim of a {kind}, which a {spec.kind} cannot make"
        elif kind and value != getattr(spec, field):
            yield f"fact {fact} is {value!r}, the field {field} says {getattr(spec, field)!r}: claim it by the field"


def claimed(spec: Spec) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(claim, tests that prove it) for each field of its kind in which a spec claims something; no tests: none can try it."""
    for (kind, field), tests in PROVED.items():
        if kind == spec.kind and getattr(spec, field):
            value = getattr(spec, field)
            whole = field if value is True else f"{field} = {_short(value)}"
            yield PROVED_OF.get((kind, field), {}).get(value, whole) if isinstance(value, str) else whole, tests
    for claim, _ in untried(spec):
        yield claim, ()


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (tuple, dict)) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
