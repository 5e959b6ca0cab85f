"""The sections of a run's configuration: small, strict, each owned by the part that reads it.

A section may name a `primary` field: then a bare value stands for the section, so `tuner: lora` is `tuner: {name: lora}`
and `--model M` is `--model.id M`. A field whose name is unique among the sections may be written without its section
(`--learning_rate` is `--train.learning_rate`). Settings of plugins stand in sections of their own, named after the
component (`lora: {rank: 16}`), and are not part of this file.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from swift.api.settings import Settings
from swift.config.argv import BOOLEANS

BY_BOUNDS = ("auto", "torch_varlen", "flash_attention_2", "flash_attention_3")
"""Values of model.attention that know documents by their bounds: for them joining rows pays on a CPU, too."""
HOST_PACK, ACCELERATOR_PACK = 1024, 4096
"""Default length of a pack in tokens, on a CPU and on accelerators; the planner and the run follow the same rule."""
MIN_PACKED_STEPS = 50
"""`auto` packs where that leaves at least this many optimizer steps in the run."""


def checkpointing_mode(value: Any) -> Any:
    """`gradient_checkpointing` in today's words: plans and command lines also say it as a switch, where true is full."""
    if value is None:
        return "auto"
    word = str(value).lower()
    if word in BOOLEANS:
        return "full" if BOOLEANS[word] else "off"
    return word


def read_where(*conditions: str) -> dict[str, Any]:
    """Schema of a field that is read where any of these conditions over other fields holds. The planner says it where such a
    field is given, and none does. Conditions are those of needs and clashes."""
    return {"x-read-where": list(conditions)}


HELD_OUT = read_where("data.val_dataset", "data.val_split")


class Section(Settings):
    primary: ClassVar[str] = ""
    group: ClassVar[str] = ""
    """Heading in --help."""

    @model_validator(mode="before")
    @classmethod
    def _bare_value(cls, value: Any) -> Any:
        if cls.primary and not isinstance(value, (dict, Section)):
            return {cls.primary: value}
        return value


class ModelSection(Section):
    primary = "id"
    group = "Model"

    id: str = ""
    """Local folder, catalog name (`swift list models`) or hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    hub: str = "auto"
    """Hub that ids are looked up on (`swift list hubs`); auto takes the preferred installed one."""
    hub_token: SecretStr | None = None
    """Access token; never written to a log, plan or checkpoint."""
    loader: str = "auto"
    """Component that loads it (`swift list models`); auto takes the catalog's, the architecture's own, or a generic one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the weights; auto keeps that of the checkpoint where the device trains in it."""
    attention: str = "auto"
    """Attention implementation. auto in training: flash_attention_3 or _2 where installed, torch_varlen (torch's own kernel
    for documents of different lengths), sdpa, eager; also flex_attention."""
    init: Literal["pretrained", "random"] = "pretrained"
    """random draws new weights from config.json, to pre-train from nothing."""
    trust_remote_code: bool = False
    """Run Python code that ships in the model folder. It has your rights: read it first."""


class TemplateSection(Section):
    primary = "name"
    group = "Template"

    name: str = "auto"
    """auto is the tokenizer's own chat template; or a template plugin, or a .jinja file."""
    system: str | None = None
    """System message for conversations that have none."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Variables handed to the template, e.g. {"enable_thinking": false}."""
    min_pixels: int | None = Field(None, ge=1)
    """Smaller images are scaled up to so many pixels, by models whose images keep their shape (Qwen-VL). Also MIN_PIXELS=."""
    max_pixels: int | None = Field(None, ge=1)
    """Larger images are scaled down to so many pixels; default: as the model's processor says. Also MAX_PIXELS=."""
    history: Literal["all", "last", "split"] = "all"
    """Which rounds are trained on: all that stand as the model would have written them; the last; or split, which makes a
    document of every turn that a thinking template rewrites later."""


class DataSection(Section):
    primary = "dataset"
    group = "Data"

    dataset: list[str] = Field(default_factory=list)
    """Files, folders, glob patterns, registered names, hub ids or URLs of object stores; `X:SUBSET#500` takes 500 rows."""
    task: str = ""
    """Task type (vqa, dpo, text, ...): chooses the registered datasets' rows and, where not named, objective and loss."""
    dataset_info: list[str] = Field(default_factory=list)
    """Files that register datasets: ms-swift's custom_dataset_info or LLaMA-Factory's dataset_info.json."""
    val_dataset: list[str] = Field(default_factory=list)
    """Held-out data for evaluation, same spellings."""
    val_split: float = Field(0.0, ge=0.0, lt=1.0, json_schema_extra=read_where("not data.val_dataset"))
    """Share of the training rows held out when there is no val_dataset."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Own column -> canonical one, e.g. {"question": "query"}."""
    mix: Literal["concat", "interleave"] = "concat"
    """concat takes the datasets one after another; interleave alternates between them by their weights."""
    weights: list[float] = Field(default_factory=list)
    """One per dataset: with interleave its share of the draws, with concat how often its rows are taken (0.5: half)."""
    mix_stop: Literal["first_exhausted", "all_exhausted"] = Field(
        "first_exhausted", json_schema_extra=read_where("data.mix == interleave")
    )
    """interleave ends when the first dataset is used up, or goes on (repeating) until all are."""
    deduplicate: Literal["no", "exact", "near"] = "no"
    """Leave out rows that repeat an earlier one: word for word, or nearly (MinHash over word 5-grams, 0.8 alike)."""
    contamination: Literal["off", "warn", "drop", "error"] = Field("warn", json_schema_extra=HELD_OUT)
    """Training rows that also stand in the held-out data: only say so, drop them, or stop."""
    streaming: bool = False
    """Read and tokenize while training, for data that is larger than the disk; needs max_steps."""
    shuffle_buffer: int = Field(1000, ge=1, json_schema_extra=read_where("data.streaming"))
    """Rows that streaming shuffles among."""
    media_folder: str | None = None
    """Folder that relative paths of images, videos and audios start from; default: the data file's own."""
    media_urls: bool = False
    """Fetch media named by http(s) URL. Off: such rows are rejected, so that data cannot make this machine call out."""
    shuffle: bool = True
    """Shuffle rows in every epoch."""
    data_seed: int = 42
    """Seed of split and shuffle."""
    max_length: int | None = Field(None, ge=8)
    """Longest row in tokens (of pairs: each answer with its prompt); default: the model's context length."""
    overlong: Literal["ask", "error", "drop", "truncate_left", "truncate_right", "split"] = "ask"
    """Rows above max_length: ask drops up to 1 % with a report and stops above that."""
    batching: Literal["auto", "unpacked", "packed", "padding_free", "padded"] = "auto"
    """packed fills rows of packing_length; padding_free joins the rows of a batch; padded pads them; unpacked is the
    faster of these two. The losses are the same."""
    packing_length: int | None = Field(
        None, ge=8, json_schema_extra=read_where("data.batching in auto, packed", "train.compile == blocks")
    )
    """Length of a pack; default: max_length, at most 4096 on accelerators and 1024 on a CPU."""
    max_bad_fraction: float = Field(0.05, ge=0.0, le=1.0)
    """The run stops when more than this share of the rows is unreadable; each one is reported."""
    model_name: str | None = None
    """Replaces {{name}} in self-cognition data."""
    model_author: str | None = None
    """Replaces {{author}} in self-cognition data."""
    workers: int = Field(0, ge=0)
    """Processes that tokenize; 0 is one per core."""
    cache_dir: str | None = None
    """Folder of the caches of records and tokens; default: $SWIFT_HOME/records and $SWIFT_HOME/tokens."""


class ObjectiveSection(Section):
    primary = "name"
    group = "Objective"

    name: str = "sft"
    """What is minimised (`swift list objectives`)."""
    reference: Literal["auto", "adapter_off", "copy", "none"] = "auto"
    """Frozen model that preference objectives compare with: the trained one with its adapter off; a copy in memory; none.
    auto takes the first that can be."""
    ref_model: str = ""
    """Another reference model than the one that is trained: folder, catalog name or hub id, of the same vocabulary."""
    logits_memory: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """MiB that logits may take at once. Where they need more, logits and their gradients are made in chunks of labels, in the
    forward pass (DPO: in tiles, again in the backward pass). auto is 256."""


class TunerSection(Section):
    primary = "name"
    group = "Tuner"

    name: str = "lora"
    """What is trained and how (`swift list tuners`); its settings stand in a section of that name."""
    freeze_vit: bool = True
    """Leave the vision tower of a multimodal model as it is."""
    freeze_aligner: bool = True
    """Leave the part between vision tower and language model as it is."""
    freeze_llm: bool = False
    """Leave the language model of a multimodal model as it is."""


class TrainSection(Section):
    group = "Training"

    epochs: float = Field(1.0, gt=0, json_schema_extra=read_where("not train.max_steps"))
    """Passes over the data."""
    max_steps: int = Field(0, ge=0)
    """Optimizer steps; above 0 it overrides epochs."""
    batch_size: int = Field(1, ge=1)
    """Rows (or packs) per device and micro-batch."""
    eval_batch_size: int = Field(0, ge=0, json_schema_extra=HELD_OUT)
    """Rows per device in evaluation; 0 is batch_size."""
    gradient_accumulation_steps: int = Field(0, ge=0)
    """Micro-batches per optimizer step; 0 reaches rows_per_step over all devices."""
    rows_per_step: int = Field(16, ge=1, json_schema_extra=read_where("not train.gradient_accumulation_steps"))
    """Rows per optimizer step, over all devices, that an open gradient_accumulation_steps reaches."""
    auto_batch_size: bool = False
    """Where a step finds no memory, take smaller micro-batches and more accumulation, so that the step stays the same."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; default: the tuner's own (1e-4 for adapters, 1e-5 for full tuning)."""
    vit_lr: float | None = Field(None, gt=0, json_schema_extra=read_where("not tuner.freeze_vit"))
    """Peak learning rate of the vision tower of a multimodal model; default: learning_rate."""
    aligner_lr: float | None = Field(None, gt=0, json_schema_extra=read_where("not tuner.freeze_aligner"))
    """Peak learning rate of the part between vision tower and language model; default: learning_rate."""
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_ratio: float = Field(0.03, ge=0.0, lt=1.0, json_schema_extra=read_where("not train.warmup_steps"))
    """Share of the steps that warm up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps that warm up; above 0 it overrides warmup_ratio."""
    min_lr_ratio: float = Field(0.0, ge=0.0, le=1.0, json_schema_extra=read_where("train.lr_scheduler in cosine, linear"))
    """The learning rate ends at this share of its peak."""
    weight_decay: float = Field(0.1, ge=0.0)
    """Decoupled weight decay on matrices."""
    max_grad_norm: float = Field(1.0, ge=0.0)
    """Gradients are clipped to this norm; 0 switches it off."""
    gradient_checkpointing: Literal["auto", "off", "full", "selective", "offload"] = Field(
        "auto", json_schema_extra={"x-switch": True}
    )
    """What the forward pass keeps for the backward one. full keeps each block's input and recomputes the rest; selective also
    keeps what matrix products and attention gave; offload keeps the inputs in the host's memory; true is full. auto keeps
    all where that fits."""
    compile: Literal["auto", "off", "blocks"] = Field("auto", json_schema_extra={"x-switch": True})
    """torch.compile: blocks compiles the decoder block, once for all of them, and fills packs up to one length; true is blocks.
    auto is off: compiling takes about a minute, which short runs do not earn back, and accelerators are not measured yet."""
    mixed_precision: Literal["auto", "no", "bfloat16"] = "auto"
    """Compute in bfloat16 over float32 weights; auto: on accelerators, where the weights are float32."""
    seed: int = 42
    """Seed of weights, dropout and everything else."""
    full_determinism: bool = False
    """Ask torch for deterministic kernels."""
    optimizer_in_backward: bool | Literal["auto"] = Field("auto", json_schema_extra={"x-switch": True})
    """Update each parameter as soon as its gradient is there, and drop it: gradients never live all at once. Needs
    max_grad_norm 0, one micro-batch per step and one process. auto: where the run meets that, and does not fit without."""

    @field_validator("compile", mode="before")
    @classmethod
    def _compiled(cls, value: Any) -> Any:
        word = str(value).lower()
        return value if word not in BOOLEANS else "blocks" if BOOLEANS[word] else "off"

    @field_validator("optimizer_in_backward", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return BOOLEANS.get(str(value).lower(), value)

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _mode(cls, value: Any) -> Any:
        return checkpointing_mode(value)


class EvaluationSection(Section):
    group = "Evaluation"

    eval_steps: int = Field(0, ge=0, json_schema_extra=HELD_OUT)
    """Evaluate every so many steps; 0: at the end only (where there is held-out data)."""
    eval_max_batches: int = Field(0, ge=0, json_schema_extra=HELD_OUT)
    """Evaluate on this many micro-batches; 0: all."""


class OptimizerSection(Section):
    primary = "name"
    group = "Optimizer"

    name: str = "adamw"
    """`swift list optimizers`."""


class DeviceSection(Section):
    primary = "name"
    group = "Devices and processes"

    name: str = "auto"
    """Accelerator (`swift list devices`); auto takes the best one present. Also DEVICE=."""


class QuantizerSection(Section):
    primary = "name"
    group = "Quantizer"

    name: str = "none"
    """Quantization of the frozen base (`swift list quantizers`)."""


class ParallelSection(Section):
    primary = "name"
    group = "Devices and processes"

    name: str = "auto"
    """Strategy (`swift list parallels`); auto is single for one process and ddp for more."""
    nproc_per_node: int = Field(0, ge=0)
    """Processes on this machine; 0 is one per device. Also NPROC_PER_NODE=."""
    nnodes: int = Field(1, ge=1)
    """Machines. Also NNODES=."""
    node_rank: int = Field(0, ge=0)
    """Number of this machine. Also NODE_RANK=."""
    master_addr: str = "127.0.0.1"
    """Address of machine 0. Also MASTER_ADDR=."""
    master_port: int = Field(0, ge=0, le=65535)
    """Port on machine 0; 0 takes a free one (one machine only). Also MASTER_PORT=."""
    timeout: float = Field(1800.0, gt=0)
    """Seconds after which a hanging collective fails."""


class CheckpointSection(Section):
    group = "Checkpoints"

    save_steps: int = Field(0, ge=0)
    """Checkpoint every so many steps; 0: ten over the run, and at the end."""
    save_total_limit: int = Field(2, ge=0)
    """Checkpoints that are kept; 0 keeps all."""
    save_only_model: bool = False
    """Leave out the state that a resume needs."""


class LoggingSection(Section):
    group = "Logging"

    log_steps: int = Field(1, ge=1)
    """Write a line to log.jsonl every so many steps."""
    tracker: list[str] = Field(default_factory=list)
    """Where metrics go besides log.jsonl (`swift list trackers`)."""
    progress: bool = True
    """Show a progress bar."""
    watch: bool = False
    """Show a live table of loss, throughput and memory instead of the bar."""
    report: bool = True
    """Write plots and report.html at the end."""


class OutputSection(Section):
    primary = "dir"
    group = "Output"

    dir: str = ""
    """Run directory (also -o); default: runs/<model>-<objective>-<time>."""
    overwrite: bool = False
    """Empty an existing run directory first."""


class EngineSection(Section):
    primary = "name"
    group = "Engine"

    name: str = "auto"
    """Inference engine (`swift list engines`)."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Further adapters by name, e.g. {"poet": "runs/b"}."""
    adapter: str = ""
    """Which of them answers; default: the run's own."""
    checkpoint: str = ""
    """Checkpoint of the run to use, e.g. step-000100; default: the final one."""
    base_only: bool = False
    """Leave the adapter away: what did the model say before?"""


class GenerationSection(Section):
    group = "Generation"

    max_new_tokens: int = Field(512, ge=1)
    """Longest answer in tokens."""
    temperature: float = Field(0.0, ge=0.0)
    """0 always takes the likeliest token."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that make up this probability."""
    top_k: int = Field(0, ge=0)
    """Sample from this many tokens; 0: all."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Above 1 discourages repeats."""
    stop: list[str] = Field(default_factory=list)
    """Strings that end an answer."""
    generation_seed: int | None = None
    """Seed of sampling."""


class InferSection(Section):
    group = "Requests"

    prompt: list[str] = Field(default_factory=list)
    """Prompts; without any (and without input) they are read from standard input."""
    input: list[str] = Field(default_factory=list)
    """Files with one request a row, in any shape that training reads."""
    result: str = ""
    """jsonl file that answers are appended to; an interrupted run goes on where it stopped."""
    batch_size: int = Field(8, ge=1)
    """Requests at once."""
    stream: bool = True
    """Show a single answer while it is made."""


class ExportSection(Section):
    group = "Export"

    to: str = "merged"
    """Format (`swift list exporters`)."""
    verify: bool = True
    """Compare the answers of source and result, and refuse above the stated bound."""
    force: bool = False
    """Keep the result even where the check fails, or the folder exists."""
    max_shard_size: str = "5GB"
    """Largest weight file."""
    prompts: list[str] = Field(default_factory=list)
    """Held prompts for the check; default: built-in ones."""


TRAIN_SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection, "data": DataSection, "template": TemplateSection, "objective": ObjectiveSection,
    "tuner": TunerSection, "train": TrainSection, "evaluation": EvaluationSection, "optimizer": OptimizerSection,
    "device": DeviceSection, "parallel": ParallelSection, "quantizer": QuantizerSection,
    "checkpoint": CheckpointSection, "logging": LoggingSection, "output": OutputSection,
}  # fmt: skip
INFER_SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection, "engine": EngineSection, "template": TemplateSection, "generation": GenerationSection,
    "infer": InferSection, "device": DeviceSection,
}  # fmt: skip
CHAT_SECTIONS = {name: section for name, section in INFER_SECTIONS.items() if name != "infer"}
EXPORT_SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection, "export": ExportSection, "engine": EngineSection, "device": DeviceSection, "output": OutputSection,
}  # fmt: skip

SLOTS: dict[str, str] = {
    "objective": "objective", "tuner": "tuner", "optimizer": "optimizer", "device": "device", "parallel": "parallel",
    "quantizer": "quantizer", "engine": "engine",
}  # fmt: skip
"""Section -> kind of the component that its `name` chooses. Trackers, datasets, hubs and exporters are named elsewhere."""
