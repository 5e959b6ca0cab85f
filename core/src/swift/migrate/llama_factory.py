"""LLaMA-Factory's words. Names that it takes from transformers' TrainingArguments stand in `swift.config.aliases`. Standard
library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swift.config.conversions import (
    NOTHING,
    Noted,
    NotYet,
    Several,
    as_bool,
    as_list,
    is_none,
    number_of,
    one_of,
    switched_off,
    unless,
    when,
)
from swift.config.rules import Alias, Group, Rule, ignored, laters
from swift.config.spelling import EXPORT_VERBS, INFER_VERBS
from swift.migrate.commands import LLAMA_FACTORY
from swift.migrate.document import Word
from swift.migrate.translate import Context, Default, Framework

USE = (*INFER_VERBS, *EXPORT_VERBS)
STAGES = {"sft": "sft", "pt": "pt", "dpo": "rlhf", "kto": "rlhf", "rm": "rlhf", "ppo": "rlhf"}
TEMPLATES = {
    "chatml": "chatml", "qwen": "chatml", "llama2": "llama2", "llama3": "llama3", "llama4": "llama4", "mistral": "mistral",
    "gemma": "gemma", "gemma3": "gemma", "phi4": "phi4", "deepseek3": "deepseek", "glm4": "glm4", "intern2": "internlm2",
    "gpt_oss": "harmony",
}  # fmt: skip
"""Its templates -> the template plugins that are the same, for models that bring none."""


def words_of(value: Any) -> list[str]:
    """A list, or its text with commas."""
    items = as_list(value) if not isinstance(value, str) else value.split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def template(value: Any) -> Any:
    if is_none(value):
        return NOTHING
    word = str(value).lower()
    own = TEMPLATES.get(word)
    note = "the tokenizer's own chat template is the template" + (f"; for a model without one: --template {own}" if own else "")
    if word.endswith(("_nothink", "_no_think")):
        return Noted(Several({"template.options.enable_thinking": False}), note)
    return Noted(NOTHING, note)


def share(value: Any) -> Any:
    number = number_of(str(value))
    if isinstance(number, float) and number >= 1:
        raise NotYet("a number of held-out rows; --val_split takes their share, --val_dataset a file")
    return value


def targets(value: Any) -> Any:
    names = words_of(value)
    return ["all-linear"] if names == ["all"] else names


def finetuning(value: Any) -> Any:
    if str(value) == "freeze":
        raise NotYet("tuning of the last layers by their number; --tuner full with --full.trainable names them")
    return value


def mixing(value: Any) -> Any:
    words = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}
    word = str(value).removesuffix("_without_replacement")
    if word == "concat":
        return NOTHING
    if word not in words:
        raise ValueError(f"wants concat, interleave_under or interleave_over, got {value!r}")
    return Several({"data.mix": "interleave", "data.mix_stop": words[word]})


def packed(value: Any) -> Any:
    if is_none(value):
        return NOTHING
    return Noted("packed", "packed documents never see each other here") if as_bool(value) else "unpacked"


def preference(value: Any) -> Any:
    word = str(value)
    if word in {"orpo", "simpo"}:
        return Several({"objective.name": word})
    return NOTHING if word == "sigmoid" else word


def init(value: Any) -> Any:
    return Several({"@tuner.init": "pissa"}) if as_bool(value) else NOTHING


def zero_stage(value: Any) -> Any:
    """A DeepSpeed file of its own examples names the stage."""
    if is_none(value):
        return NOTHING
    name = Path(str(value)).name if not isinstance(value, Mapping) else json.dumps(value)
    if "z0" in name:
        return NOTHING
    raise NotYet(f"ZeRO by the file {name} (comes with the deepspeed strategy)")


ALIASES: tuple[Alias, ...] = (
    # model
    Alias("model_name_or_path", "model.id"),
    Alias("model", "model.id"),
    Alias("model_revision", "model.revision", unless("main")),
    Alias("trust_remote_code", "model.trust_remote_code"),
    Alias("hf_hub_token", "model.hub_token", unless()),
    Alias("infer_dtype", "model.dtype", unless("auto")),
    Alias("pure_bf16", "model.dtype", when("bfloat16")),
    Alias("flash_attn", "model.attention", one_of({
        "auto": NOTHING, "none": NOTHING, "fa2": "flash_attention_2", "flash_attention2": "flash_attention_2",
        "fa3": "flash_attention_3", "flash_attention3": "flash_attention_3", "disabled": "eager", "sdpa": "sdpa",
    })),
    Alias("train_from_scratch", "model.init", when("random")),
    Alias("adapter_name_or_path", "option.positional", lambda v: words_of(v)[-1] if words_of(v) else NOTHING, verbs=USE),
    # template
    Alias("template", "template.name", template),
    Alias("default_system", "template.system", unless()),
    Alias("enable_thinking", "template.options.enable_thinking", lambda v: NOTHING if is_none(v) or as_bool(v) else False),
    Alias("mask_history", "template.history", when("last")),
    # data
    Alias("dataset", "data.dataset", words_of),
    Alias("eval_dataset", "data.val_dataset", words_of),
    Alias("dataset_info", "data.dataset_info", as_list),
    Alias("media_dir", "data.media_folder", unless()),
    Alias("cutoff_len", "data.max_length"),
    Alias("val_size", "data.val_split", share),
    Alias("preprocessing_num_workers", "data.workers", unless()),
    Alias("packing", "data.batching", packed),
    Alias("neat_packing", "data.batching", lambda v: "packed" if not is_none(v) and as_bool(v) else NOTHING),
    Alias("mix_strategy", "data.mix", mixing),
    Alias("interleave_probs", "data.weights", lambda v: NOTHING if is_none(v) else [float(w) for w in words_of(v)]),
    Alias("buffer_size", "data.shuffle_buffer"),
    Alias("disable_shuffling", "data.shuffle", switched_off),
    # objective
    Alias("stage", "objective.name"),
    Alias("train_on_prompt", "@objective.train_on", when("all")),
    Alias("pref_beta", "@objective.beta"),
    Alias("pref_loss", "@objective.loss_type", preference),
    Alias("pref_ftx", "@objective.rpo_alpha", unless("0", "0.0")),
    Alias("dpo_label_smoothing", "@objective.label_smoothing", unless("0", "0.0")),
    Alias("kto_chosen_weight", "@objective.desirable_weight", unless("1", "1.0")),
    Alias("kto_rejected_weight", "@objective.undesirable_weight", unless("1", "1.0")),
    Alias("simpo_gamma", "@objective.simpo_gamma"),
    # tuner
    Alias("finetuning_type", "tuner.name", finetuning),
    Alias("lora_target", "@tuner.target_modules", targets),
    Alias("oft_target", "@tuner.target_modules", targets),
    Alias("additional_target", "@tuner.modules_to_save", lambda v: NOTHING if is_none(v) else words_of(v)),
    Alias("loraplus_lr_ratio", "@tuner.lora_plus_lr_ratio", unless()),
    Alias("pissa_init", "@tuner.init", init),
    # training
    Alias("disable_gradient_checkpointing", "train.gradient_checkpointing", lambda v: False if as_bool(v) else NOTHING),
    Alias("deepspeed", "parallel.name", zero_stage),
    # use
    Alias("infer_backend", "engine.name", one_of({"hf": NOTHING, "huggingface": NOTHING}), verbs=INFER_VERBS),
    Alias("do_sample", "generation.temperature", lambda v: NOTHING if as_bool(v) else 0.0, verbs=INFER_VERBS),
    Alias("export_dir", "output.dir"),
    Alias("export_size", "export.max_shard_size", lambda v: f"{v}GB"),
)  # fmt: skip

# fmt: off
LATER: tuple[Group, ...] = (
    ("going on with a run of another framework; its weights serve as --model", (), "resume_from_checkpoint"),
    ("starting from an adapter", (), "adapter_name_or_path create_new_adapter"),
    ("new tokens in the vocabulary", (), "add_tokens add_special_tokens new_special_tokens_config resize_vocab"),
    ("shifted sparse attention (comes with the longlora tuner)", (), "shift_attn"),
    ("mixture of depths", (), "mixture_of_depths"),
    ("Unsloth", (), "use_unsloth use_unsloth_gc"),
    ("Liger kernels", (), "enable_liger_kernel"),
    ("the router's auxiliary loss (comes with the MoE models)", (), "moe_aux_loss_coef"),
    ("kernels of its own", (), "use_v1_kernels"),
    ("KTransformers", (), "use_kt"),
    ("quantization (comes with the quantizer plugins)", (), "export_quantization_bit ref_model_quantization_bit "
     "reward_model_quantization_bit"),
    ("freezing some layers by their number; --tuner full with --full.trainable names them", (),
     "freeze_trainable_layers=2 freeze_trainable_modules=all freeze_extra_modules"),
    ("LLaMA-Pro (comes with the llamapro tuner)", (), "use_llama_pro"),
    ("a size of OFT's blocks; --oft.options hands settings to PEFT", (), "oft_block_size=32 oft_rank=0 module_dropout=0.0"),
    ("GaLore (comes with the galore tuner)", (), "use_galore"),
    ("APOLLO", (), "use_apollo"),
    ("BAdam", (), "use_badam"),
    ("Adam-mini", (), "use_adam_mini"),
    ("Muon", (), "use_muon"),
    ("dynamic fine-tuning loss and its like", (), "use_dft_loss use_asft_loss use_eaft_loss"),
    ("FP8 training", (), "fp8"),
    ("Megatron-Core", (), "use_mca"),
    ("HyperParallel", (), "use_hyper_parallel"),
    ("preference losses beside DPO's own", (), "pref_bco_weight=0.0 ld_alpha"),
    ("a reference model of its own", (), "ref_model ref_model_adapters"),
    ("reward models", (), "reward_model reward_model_adapters"),
    ("switches of multimodal models", (), "freeze_language_model"),
    ("switches of thinking templates", (), "preserve_thinking"),
    ("tool formats by name; the chat template writes tools", (), "tool_format"),
    ("metrics beyond the loss", (), "compute_accuracy eval_on_each_dataset"),
    ("generation of answers in training's place; `swift infer RUN --input FILE`", (), "do_predict"),
    ("stopping early", (), "early_stopping_steps"),
    ("profiling", (), "enable_torch_profiler"),
    ("SwanLab (comes with its tracker)", (), "use_swanlab"),
    ("Ray (comes with the ray launcher)", (), "ray_num_workers=1 ray_init_kwargs"),
    ("pushing to a hub (comes with `swift export --push`)", (), "export_hub_model_id"),
    ("configuration of its version 1 (nested blocks)", (), "dist_config kernel_config quant_config peft_config init_config "
     "train_dataset batching_strategy=normal optim_config model_class=llm"),
    ("vLLM (comes with its engine)", (), "vllm_config"),
)
DETAILS: tuple[Group, ...] = (
    ("a detail of GaLore", (), "galore_target galore_rank galore_update_interval galore_scale galore_proj_type "
     "galore_layerwise"),
    ("a detail of APOLLO", (), "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
     "apollo_scale_type apollo_layerwise apollo_scale_front"),
    ("a detail of BAdam", (), "badam_mode badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio "
     "badam_mask_mode badam_verbose"),
    ("a detail of PiSSA, which keeps its own adapter here", (), "pissa_iter pissa_convert"),
    ("a detail of LoRA+", (), "loraplus_lr_embedding"),
    ("a detail of losses that are not built", (), "asft_alpha eaft_alpha"),
    ("a detail of FP8", (), "fp8_backend fp8_enable_fsdp_float8_all_gather"),
    ("a detail of quantization", (), "quantization_method quantization_type double_quantization quantization_device_map "
     "export_quantization_dataset export_quantization_nsamples export_quantization_maxlen"),
    ("a detail of KTransformers", (), "kt_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
     "kt_lora_expert_intermediate_size"),
    ("a detail of Megatron-Core", (), "bias_activation_fusion apply_rope_fusion use_distributed_optimizer overlap_param_gather "
     "overlap_grad_reduce moe_grouped_gemm moe_token_dispatcher_type tensor_model_parallel_size sequence_parallel "
     "pipeline_model_parallel_size expert_model_parallel_size recompute_granularity"),
    ("a detail of SwanLab", (), "swanlab_run_name swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret"),
    ("a detail of PPO", (), "ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model_type"),
    ("only multimodal models read it", (), "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches "
     "video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate freeze_vision_tower "
     "freeze_multi_modal_projector processor_type"),
    ("the engine vLLM or SGLang is not built yet", (), "vllm_maxlen vllm_gpu_util vllm_max_lora_rank sglang_maxlen "
     "sglang_mem_fraction sglang_config sglang_lora_backend"),
    ("tokens are kept in a cache by content", (), "overwrite_cache tokenized_path preprocessing_batch_size "
     "data_shared_file_system"),
    ("a run always writes plots and a report", (), "plot_loss"),
    ("padding never counts in the loss", (), "ignore_pad_token_for_loss"),
    ("there is no dataset whose rows it would count", (), "max_samples"),
    ("the format of the run directory is Swift's", (), "export_legacy_format export_device"),
    ("the model is loaded in the way that fits", (), "low_cpu_mem_usage use_fast_tokenizer split_special_tokens "
     "use_reentrant_gc upcast_layernorm upcast_lmhead_output print_param_status cache_dir offload_folder use_kv_cache "
     "compute_dtype init_special_tokens adapter_folder block_diag_attn model_max_length sample_backend"),
    ("throughput is always in the log", (), "include_effective_tokens_per_second include_mfu"),
    ("the generation of text takes it from the model", (), "length_penalty skip_special_tokens max_length eval_num_beams"),
)
# fmt: on


def rules() -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in (*ALIASES, *laters(LATER), *ignored(DETAILS)):
        found[rule.old] = (*found.get(rule.old, ()), rule)
    return found


def prepare(items: dict[str, Any], context: Context) -> dict[str, Any]:
    """The stage chooses the verb; names of datasets get their file, and `max_samples` its place behind them."""
    if "do_train" not in items and "stage" not in items and context.result.call.verb in {"", "train"}:
        use = "export" if "export_dir" in items else "chat" if {"template", "infer_backend"} & items.keys() else ""
        if use and "dataset" not in items and "train_dataset" not in items:
            context.verb = use
    if context.verb in INFER_VERBS or context.verb in EXPORT_VERBS:
        items.pop("finetuning_type", None)
        items.pop("stage", None)
        if "adapter_name_or_path" not in items and context.verb not in EXPORT_VERBS:
            items.pop("dataset", None)
        return items
    if "model" in items and "model_name_or_path" not in items:  # its version 1, whose adapters stand in a block
        items.setdefault("finetuning_type", "lora" if items.get("peft_config") else "full")
    context.verb = STAGES.get(str(items.get("stage", "sft")), "sft")
    if isinstance(items.get("dataset"), (str, list)):
        _datasets(items, context)
    return items


def _datasets(items: dict[str, Any], context: Context) -> None:
    number = items.pop("max_samples", None)
    names = {key: words_of(items[key]) for key in ("dataset", "eval_dataset") if items.get(key)}
    home = str(items.pop("dataset_dir", None) or "data")
    info = next(
        (p for p in (Path(home) / "dataset_info.json", context.folder / home / "dataset_info.json") if p.is_file()), None
    )
    known = [n for group in names.values() for n in group if context.registry.has("dataset", n) or Path(n).exists()]
    if info is not None:
        items["dataset_info"] = [str(info)]
    elif len(known) < sum(map(len, names.values())):
        others = [n for group in names.values() for n in group if n not in known]
        text = f"{', '.join(others)} stand in its file dataset_info.json, which is not at {home}: give it with --dataset_info"
        context.result.words.append(Word("dataset_dir", home, "open", text))
    for key, group in names.items():
        items[key] = [f"{name}#{number}" for name in group] if number else group
    if number:
        context.result.words.append(Word("max_samples", str(number), "mapped"))


def defaults(verb: str, values: Mapping[str, Any]) -> Iterable[Default]:
    if verb in INFER_VERBS:
        yield from (
            Default("generation.max_new_tokens", 1024, "max_new_tokens"),
            Default("generation.temperature", 0.95, "temperature"),
            Default("generation.top_p", 0.7, "top_p"), Default("generation.top_k", 50, "top_k"),
        )  # fmt: skip
    if verb in USE:
        return
    if "train.max_steps" not in values:
        yield Default("train.epochs", 3.0, "num_train_epochs")
    if "train.warmup_steps" not in values:
        yield Default("train.warmup_ratio", 0.0, "warmup_ratio")
    rank = values.get("lora.rank", 8)
    yield from (
        Default("train.batch_size", 8, "per_device_train_batch_size"),
        Default("train.gradient_accumulation_steps", 1, "gradient_accumulation_steps"),
        Default("train.learning_rate", 5e-5, "learning_rate"), Default("train.lr_scheduler", "linear", "lr_scheduler_type"),
        Default("train.weight_decay", 0.0, "weight_decay"), Default("@optimizer.beta2", 0.999, "adam_beta2"),
        Default("data.max_length", 2048, "cutoff_len"), Default("data.overlong", "truncate_right", "of cutting long rows"),
        Default("data.batching", "packed" if verb == "pt" else "unpacked", "packing"),
        Default("@tuner.alpha", 2.0 * float(rank), "lora_alpha, twice the rank"),
        Default("@tuner.dropout", 0.0, "lora_dropout"),
        Default("checkpoint.save_steps", 500, "save_steps"), Default("checkpoint.save_total_limit", 0, "save_total_limit"),
    )  # fmt: skip


FRAMEWORK = Framework(
    LLAMA_FACTORY,
    rules(),
    {"train": "sft", "": "sft", "chat": "chat", "webchat": "chat", "export": "export", "api": "", "eval": "", "webui": ""},
    prepare,
    defaults,
)
