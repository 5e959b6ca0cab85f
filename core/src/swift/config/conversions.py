"""How values of foreign spellings become native ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.config.argv import BOOLEANS

NOTHING = object()
"""A converter's answer for a value that needs no setting here."""


class NotYet(ValueError):
    """A value that is understood, but not built yet."""


class MissingFile(ValueError):
    """A value that names a file which is not there."""


@dataclass(frozen=True)
class Weak:
    """A value that gives way to any other one of the same source that is less weak (`always`: of any source)."""

    value: Any
    always: bool = False
    by: float = 1.0


@dataclass(frozen=True)
class Several:
    """Values for other paths than the alias's own."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class ShareOf:
    """A value that is a share of another field's: `min_lr` of the learning rate."""

    value: Any
    path: str


@dataclass(frozen=True)
class Noted:
    """A value, and a remark for the user."""

    value: Any
    note: str


def text_of(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(text_of(v) for v in value) if value else "[]"
    return json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def number_of(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text if text else None


def as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in BOOLEANS:
        raise ValueError(f"wants true or false, got {value!r}")
    return BOOLEANS[str(value).lower()]


def as_list(value: Any) -> list[Any]:
    if isinstance(value, str) and value.startswith("["):
        value = as_json(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def as_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"wants JSON, got {value!r}") from None


def is_none(value: Any) -> bool:
    return value is None or str(value).lower() in {"none", "null", ""}


def one_of(table: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Translate words; those that are not in the table stay as they are."""

    def convert(value: Any) -> Any:
        word = str(value).lower()
        if word in table:
            result = table[word]
            if isinstance(result, NotYet):
                raise NotYet(str(result))
            return result
        return value

    return convert


def when(on: Any, off: Any = NOTHING) -> Callable[[Any], Any]:
    """A switch that stands for one value where it is on."""
    return lambda value: on if not is_none(value) and as_bool(value) else off


def unless(*nothing: str) -> Callable[[Any], Any]:
    """The value itself, but for words that mean "not set"."""
    return lambda value: NOTHING if is_none(value) or str(value).lower() in nothing else value


def device_map(value: Any) -> Any:
    """One device is a device; spreading layers over several is not built."""
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            value = {"?": value}
    if isinstance(value, Mapping) and len(set(map(str, value.values()))) == 1 and "" in value:
        value = value[""]
    if is_none(value) or str(value).lower() in ("auto", "0"):
        return NOTHING
    kind, _, number = str(value).partition(":")
    if kind in ("cpu", "cuda", "npu", "mps", "xpu", "musa", "mlu") and number in ("", "0"):
        return kind
    raise NotYet("spreading layers over devices (comes with a device_map strategy)")


def single(value: Any) -> Any:
    values = as_list(value)
    if len(values) == 1:
        return NOTHING if is_none(values[0]) else values[0]
    return Noted(values[0], f"only the first of {len(values)} is used") if values else NOTHING


DTYPES = {
    **{name: name for name in ("auto", "bfloat16", "float16", "float32")},
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "none": NOTHING,
    "null": NOTHING,
    "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
    "torch.float32": "float32",
}
ATTENTION = {
    "flash_attn": "flash_attention_2",
    "flash_attn_2": "flash_attention_2",
    "flash_attention": "flash_attention_2",
    "flash_attn_3": "flash_attention_3",
    "flash_attn_4": "flash_attention_4",
    "flex": "flex_attention",
    "none": NOTHING,
    "null": NOTHING,
}
OVERLONG = {
    "delete": "drop",
    "left": "truncate_left",
    "truncation_left": "truncate_left",
    "right": "truncate_right",
    "raise": "error",
    "split": "split",
    "none": NOTHING,
    "null": NOTHING,
}
INIT_WEIGHTS = {
    "true": NOTHING,
    "none": NOTHING,
    "null": NOTHING,
    "false": "random",
    "loftq": NotYet("LoftQ (comes with the quantizer plugins)"),
    "lora-ga": NotYet("LoRA-GA"),
    "eva": NotYet("EVA"),
    "corda": NotYet("CorDA"),
    "bat": NotYet("Bone's bat; tuner miss has it"),
}
LOSS_SCALE = {"default": NOTHING, "none": NOTHING, "null": NOTHING, "all": "all", "last_round": "last"}
OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_torch_xla", "adam"), "adamw"),
    "none": NOTHING,
    "null": NOTHING,
    **{
        name: NotYet("GaLore (comes with the galore tuner)")
        for name in ("galore_adamw", "galore_adafactor", "galore_adamw_8bit")
    },
}


def scheduler(value: Any) -> Any:
    words = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine", "none": NOTHING, "null": NOTHING}
    later = {
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "reduce_lr_on_plateau",
        "warmup_stable_decay",
        "greedy",
        "wsd",
        "inverse-square-root",
        "cosine_warmup_with_min_lr",
    }
    if str(value) in later:
        raise NotYet(f"the {value} schedule; cosine, linear and constant are there")
    return words.get(str(value).lower(), value)


def scheduler_options(value: Any) -> Any:
    if is_none(value):
        return NOTHING
    wanted = as_json(value)
    if not isinstance(wanted, dict):
        raise ValueError(f"wants a JSON object, got {value!r}")
    others = sorted(set(wanted) - {"min_lr_rate"})
    if others:
        raise NotYet(f"the schedule's {', '.join(others)}; min_lr_rate is train.min_lr_ratio here")
    return wanted.get("min_lr_rate", NOTHING)


def trackers(value: Any) -> Any:
    names = [str(v).lower() for v in as_list(value)]
    if "all" in names:
        raise ValueError("wants names of trackers, e.g. tensorboard (`swift list trackers`), got 'all'")
    return [name for name in names if name not in {"none", "null", ""}]


def switched_off(value: Any) -> Any:
    return NOTHING if is_none(value) else not as_bool(value)


def resume(value: Any) -> Any:
    if is_none(value) or str(value).lower() == "false":
        return NOTHING
    if value is True or str(value).lower() == "true":
        raise ValueError("wants the run directory, e.g. --resume runs/a")
    return value


def prefixes(value: Any) -> list[str]:
    """ms-swift's prefixes of parameter names as regular expressions."""
    return [f"^{re.escape(str(v))}" for v in as_list(value)]


def adapters(value: Any) -> Any:
    """`name=path` pairs, and JSON of them, go to `engine.adapters`; a bare path is what the verb works on."""
    if isinstance(value, Mapping):
        return dict(value)
    bare: list[Any] = []
    named: dict[str, str] = {}
    for word in as_list(value):
        if str(word).lstrip().startswith("{"):
            named |= as_json(word)
        elif "=" in str(word):
            name, _, path = str(word).partition("=")
            named[name] = path
        else:
            bare.append(word)
    if len(bare) > 1:
        raise ValueError(f"wants name=path for every adapter but one, got {', '.join(map(repr, bare))}")
    found: dict[str, Any] = {}
    if named:
        found["engine.adapters"] = named
    if bare:
        found["option.positional"] = str(bare[0])
    return Several(found)


def packing(value: Any) -> Any:
    if is_none(value):
        return NOTHING
    return "packed" if as_bool(value) else Weak("unpacked")


def plain_text_is(later: bool) -> Callable[[Any], Any]:
    """`use_chat_template` where plain text (`later`), or where a chat template, is what cannot be asked for."""

    def convert(value: Any) -> Any:
        if is_none(value) or as_bool(value) is later:
            return NOTHING
        raise NotYet(
            "plain text for tuning; `swift pt` trains on it" if later else "a chat template in pre-training; `swift sft` has it"
        )

    return convert


def loss_scale(value: Any) -> Any:
    word = str(value).lower()
    if word not in LOSS_SCALE:
        raise NotYet(f"loss weights by the part of an answer ({value}); a message's own `loss` is read")
    return LOSS_SCALE[word]


def padding_free(value: Any) -> Any:
    return Weak("padding_free", by=0.5) if not is_none(value) and as_bool(value) else NOTHING


def reading_rows_strictly(value: Any) -> Any:
    return 0.0 if not is_none(value) and as_bool(value) else NOTHING


def evaluation_points(value: Any) -> Any:
    word = str(value).lower()
    if word in {"none", "null", "no", "steps"}:
        return NOTHING
    if word == "epoch":
        return Noted(NOTHING, "evaluation is every eval_steps, and always at the end")
    raise ValueError(f"wants no, steps or epoch, got {value!r}")


def save_points(value: Any) -> Any:
    word = str(value).lower()
    if word in {"none", "null", "steps"}:
        return NOTHING
    if word in {"no", "epoch"}:
        return Noted(NOTHING, "checkpoints are every save_steps (default: ten over the run), and the end is always saved")
    if word == "best":
        raise NotYet("keeping the best checkpoint by a metric")
    raise ValueError(f"wants no, steps or epoch, got {value!r}")


def ratio_of_steps(name: str) -> Callable[[Any], Any]:
    """transformers reads values below 1 as a share of all steps."""

    def convert(value: Any) -> Any:
        if is_none(value):
            return NOTHING
        number = number_of(str(value))
        if isinstance(number, float) and 0 < number < 1:
            raise NotYet(f"{name} as a share of all steps; give a whole number")
        return int(number) if isinstance(number, float) and number.is_integer() else value

    return convert


def not_negative(value: Any) -> Any:
    """-1 and None say "not limited"."""
    number = number_of(str(value)) if not is_none(value) else -1.0
    return NOTHING if isinstance(number, float) and number < 0 else value


_MODULES = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "linear_fc1": ("gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
    "all": ("all-linear",),
}


def target_modules(value: Any) -> Any:
    """ms-swift 2's words for layers (ALL, DEFAULT), and Megatron's names of them in transformers' words."""
    names = [str(v) for v in as_list(value)]
    if [name.lower() for name in names] in (["default"], ["auto"], ["none"]):
        return NOTHING
    if any(name.lower() in {"embedding", "all-embedding"} for name in names):
        raise NotYet("adapters on embeddings by this word; --lora.target_modules takes names of layers")
    return list(dict.fromkeys(new for name in names for new in _MODULES.get(name.lower(), (name,))))


def system_text(value: Any) -> Any:
    """A system message, or the content of the .txt file that is named."""
    if is_none(value) or not str(value).endswith(".txt") or "\n" in str(value):
        return value
    try:
        return Path(str(value)).read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile(f"{value} cannot be read: {error.strerror}; give a file, or the text itself") from None


def unlimited(value: Any) -> Any:
    """None and -1 say "all", which is 0 here."""
    number = number_of(str(value))
    return 0 if is_none(value) or (isinstance(number, float) and number < 0) else value


def recompute(value: Any) -> Any:
    """Megatron's granularity of recomputation."""
    word = str(value).lower()
    if word in {"none", "null", "no", "false"}:
        return NOTHING if value is None else "off"
    if word in {"full", "selective"}:
        return word
    raise ValueError(f"wants full, selective or none, got {value!r}")


def zero(value: Any) -> Any:
    """A block's `zero_optimization` (or `zero_stage`): a number, or a mapping with `stage`."""
    stage = value.get("stage", 0) if isinstance(value, Mapping) else value
    if is_none(stage) or str(stage).lower() in {"0", "zero0", "false"}:
        return NOTHING
    raise NotYet(f"ZeRO-{str(stage).lower().removeprefix('zero')} (comes with the deepspeed strategy)")
