"""Axolotl's words. Names that it shares with transformers' TrainingArguments stand in `swift.config.aliases`. Standard library
only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swift.config.conversions import (
    ATTENTION,
    NOTHING,
    OPTIMIZERS,
    Noted,
    NotYet,
    Several,
    as_bool,
    as_list,
    is_none,
    number_of,
    one_of,
    ratio_of_steps,
    save_points,
    scheduler,
    unless,
    when,
)
from swift.config.rules import Alias, Group, Rule, ignored, laters
from swift.config.spelling import EXPORT_VERBS, INFER_VERBS
from swift.migrate.commands import AXOLOTL
from swift.migrate.document import Word
from swift.migrate.llama_factory import share
from swift.migrate.translate import Context, Default, Framework

USE = (*INFER_VERBS, *EXPORT_VERBS)
OBJECTIVES = {"dpo", "ipo", "kto", "orpo", "simpo", "grpo"}
TEMPLATES = {
    "chatml": "chatml", "llama3": "llama3", "llama4": "llama4", "gemma": "gemma", "gemma3": "gemma", "phi_4": "phi4",
    "deepseek_v3": "deepseek", "mistral_v3_tekken": "mistral-v7",
}  # fmt: skip
SPEED = ("liger", "cut_cross_entropy", "spectrum", "kernels", "fused")
"""Plugins that change speed and memory, not the result."""
RECOGNISED = {
    None, "", "alpaca", "alpaca_chat.load_qa", "chat_template", "sharegpt", "completion", "input_output", "oasst", "pretrain",
    "chat_template.default", "chatml.intel", "chatml.argilla", "chatml.ultra", "llama3.intel", "llama3.argilla", "llama3.ultra",
    "chat_template.argilla", "chat_template.intel", "gpteacher", "alpaca_chat", "context_qa.load_v2", "orpo.chat_template",
    "chatml.icr", "chatml", "alpaca:chat",
}  # fmt: skip
"""Its dataset types whose rows Swift recognises by their columns."""


def chat_template(value: Any) -> Any:
    word = str(value).lower()
    if is_none(value) or word.startswith("tokenizer_default"):
        return NOTHING
    if word == "jinja":
        return NOTHING
    if word in TEMPLATES:
        return TEMPLATES[word]
    return Noted(NOTHING, f"{value} is not among Swift's templates: the tokenizer's own chat template is the template")


def precision(value: Any) -> Any:
    word = str(value).lower()
    return NOTHING if word in {"auto", "none"} else "bfloat16" if word == "full" or as_bool(value) else NOTHING


def checkpointing(value: Any) -> Any:
    if str(value).lower() == "offload_disk":
        return Noted("offload", "activations go to the host's memory, not to its disk")
    if str(value).lower() in {"offload", "unsloth"}:
        return "offload"
    return NOTHING if is_none(value) else as_bool(value)


def warmup(value: Any) -> Any:
    number = number_of(str(value))
    if isinstance(number, float) and 0 < number < 1:
        return Several({"train.warmup_ratio": number})
    return NOTHING if is_none(value) else value


def points(what: str) -> Any:
    def convert(value: Any) -> Any:
        return NOTHING if is_none(value) or number_of(str(value)) == 0 else Noted(NOTHING, what)

    return convert


def adapter(value: Any) -> Any:
    word = str(value).lower()
    return "lora" if word in {"lora", "qlora"} else NOTHING if is_none(value) else value


def algorithm(value: Any) -> Any:
    if is_none(value):
        return NOTHING
    if str(value) == "ipo":
        return Several({"objective.name": "dpo", "@objective.loss_type": "ipo"})
    if str(value) not in OBJECTIVES:
        raise NotYet(f"the algorithm {value}")
    return str(value)


def special_tokens(value: Any) -> Any:
    others = sorted(set(value or {}) - {"pad_token"}) if isinstance(value, Mapping) else []
    if others:
        return Noted(NOTHING, f"{', '.join(others)}: the tokenizer's own stay; change them in tokenizer_config.json")
    return NOTHING


def plugins(value: Any) -> Any:
    others = [name for name in as_list(value) if not is_none(name) and not any(word in str(name) for word in SPEED)]
    if others:
        raise NotYet(f"Axolotl's plugins {', '.join(str(o).rpartition('.')[2] for o in others)}")
    return Noted(
        NOTHING, "its plugins change speed and memory only; logits are made in tiles here, and only where there are labels"
    )


def optimizer(value: Any) -> Any:
    later = {"muon", "ao_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8", "came_pytorch", "optimi_adamw", "schedule_free_adamw",
             "adopt_adamw", "lion_pytorch", "flash_adamw", "q_galore_adamw8bit", "dion", "lomo"}  # fmt: skip
    word = str(value).lower()
    if (
        word in later
        or any(part in word for part in ("galore", "lomo", "ademamix", "rmsprop"))
        or word in ("lion", "lion_32bit")
    ):
        raise NotYet(f"the optimizer {value}; without it a run takes AdamW")
    return one_of({**OPTIMIZERS, "adamw": "adamw"})(value)


def targets(value: Any) -> Any:
    return NOTHING if is_none(value) else value if isinstance(value, str) else as_list(value)


ALIASES: tuple[Alias, ...] = (
    # model
    Alias("base_model", "model.id"),
    Alias("revision_of_model", "model.revision", unless("main")),
    Alias("trust_remote_code", "model.trust_remote_code"),
    Alias("special_tokens", "template.options", special_tokens),
    Alias("plugins", "model.attention", plugins),
    Alias("attn_implementation", "model.attention", one_of(ATTENTION)),
    Alias("flash_attention", "model.attention", when("flash_attention_2")),
    Alias("sdp_attention", "model.attention", when("sdpa")),
    Alias("flex_attention", "model.attention", when("flex_attention")),
    Alias("eager_attention", "model.attention", when("eager")),
    Alias("bf16", "model.dtype", precision),
    Alias("bfloat16", "model.dtype", when("bfloat16")),
    Alias("float16", "model.dtype", when("float16")),
    Alias("float32", "model.dtype", when("float32")),
    Alias("reinit_weights", "model.init", when("random")),
    # template
    Alias("chat_template", "template.name", chat_template),
    Alias("chat_template_jinja", "template.name", unless()),
    Alias("chat_template_kwargs", "template.options", unless()),
    Alias("default_system_message", "template.system", unless()),
    # data
    Alias("dataset", "data.dataset"),
    Alias("val_dataset", "data.val_dataset"),
    Alias("columns", "data.columns"),
    Alias("dataset_processes", "data.workers", unless()),
    Alias("dataset_num_proc", "data.workers", unless()),
    Alias("dataset_exact_deduplication", "data.deduplicate", when("exact")),
    Alias("shuffle_merged_datasets", "data.shuffle", unless()),
    Alias("sequence_len", "data.max_length"),
    Alias("excess_length_strategy", "data.overlong", one_of({"truncate": "truncate_right", "raise": "error", "none": NOTHING})),
    Alias("sample_packing", "data.batching", lambda v: NOTHING if is_none(v) else "packed" if as_bool(v) else "unpacked"),
    Alias("batch_flattening", "data.batching", lambda v: NOTHING if is_none(v) or v == "auto" else when("padding_free")(v)),
    Alias("max_packed_sequence_len", "data.packing_length", unless()),
    Alias("val_set_size", "data.val_split", lambda v: NOTHING if is_none(v) else share(v)),
    # objective
    Alias("objective", "objective.name"),
    Alias("rl", "objective.name", algorithm),
    Alias("reward_model", "objective.name", when("rm")),
    Alias("train_on_inputs", "@objective.train_on", when("all")),
    Alias("rl_beta", "@objective.beta", unless()),
    Alias("dpo_beta", "@objective.beta", unless()),
    Alias("orpo_alpha", "@objective.beta", unless()),
    Alias("rpo_alpha", "@objective.rpo_alpha", unless()),
    Alias("dpo_label_smoothing", "@objective.label_smoothing", unless()),
    Alias("dpo_loss_type", "@objective.loss_type", unless()),
    Alias("cpo_alpha", "@objective.cpo_alpha", unless()),
    Alias("simpo_gamma", "@objective.simpo_gamma", unless()),
    Alias("kto_desirable_weight", "@objective.desirable_weight", unless()),
    Alias("kto_undesirable_weight", "@objective.undesirable_weight", unless()),
    # tuner
    Alias("adapter", "tuner.name", adapter),
    Alias("lora_r", "@tuner.rank", unless()),
    Alias("lora_target_modules", "@tuner.target_modules", targets),
    Alias("lora_target_linear", "@tuner.target_modules", when(["all-linear"])),
    Alias("lora_modules_to_save", "@tuner.modules_to_save", targets),
    Alias("peft_use_dora", "@tuner.use_dora", unless()),
    Alias("peft_use_rslora", "@tuner.use_rslora", unless()),
    Alias("peft_init_lora_weights", "@tuner.init", one_of({"true": NOTHING, "false": "random", "none": NOTHING})),
    Alias("peft_layers_to_transform", "@tuner.layers_to_transform", unless()),
    Alias("loraplus_lr_ratio", "@tuner.lora_plus_lr_ratio", unless()),
    Alias("unfrozen_parameters", "@tuner.trainable", targets),
    Alias("lora_model_dir", "option.positional", unless(), verbs=USE),
    # training
    Alias("micro_batch_size", "train.batch_size"),
    Alias("eval_batch_size", "train.eval_batch_size", unless()),
    Alias("gradient_checkpointing", "train.gradient_checkpointing", checkpointing),
    Alias("optimizer", "optimizer.name", optimizer),
    Alias("lr_scheduler", "train.lr_scheduler", scheduler),
    Alias("cosine_min_lr_ratio", "train.min_lr_ratio", unless()),
    Alias("warmup_steps", "train.warmup_steps", warmup),
    Alias("adam_eps", "@optimizer.eps"),
    # evaluation, checkpoints, logging
    Alias("eval_steps", "evaluation.eval_steps", ratio_of_steps("eval_steps")),
    Alias("evals_per_epoch", "evaluation.eval_steps", points("evaluation is every eval_steps, and always at the end")),
    Alias("save_strategy", "checkpoint.save_steps", save_points),
    Alias("saves_per_epoch", "checkpoint.save_steps",
          points("checkpoints are every save_steps (default: ten over the run), and the end is always saved")),
    Alias("use_tensorboard", "logging.tracker", when(["tensorboard"])),
)  # fmt: skip

# fmt: off
LATER: tuple[Group, ...] = (
    ("going on with a run of another framework; its weights serve as --model", (),
     "resume_from_checkpoint auto_resume_from_checkpoints"),
    ("starting from an adapter", (), "lora_model_dir"),
    ("a config or tokenizer that is not the model's", (), "base_model_config tokenizer_config cls_model_config"),
    ("overriding the model's config", (), "overrides_of_model_config overrides_of_model_kwargs model_config"),
    ("weights in a quantized format (comes with the quantizer plugins)", (),
     "gptq model_quantization_config quantize_moe_experts qat quantization bnb_config_kwargs"),
    ("new tokens in the vocabulary", (), "tokens added_tokens_overrides shrink_embeddings"),
    ("other attention kernels", (), "xformers_attention sage_attention s2_attention scaling_softmax"),
    ("adapters on bare parameters", (), "lora_target_parameters"),
    ("LoftQ", (), "peft.loftq_config"),
    ("ranks by module; --lora.options hands settings to PEFT", (), "lora_rank_pattern lora_alpha_pattern peft_layers_pattern "
     "peft_layer_replication peft_trainable_token_indices"),
    ("ReLoRA", (), "relora relora_steps relora_prune_ratio jagged_restart_steps"),
    ("learning rates by group; LoRA+ has its ratio", (), "lr_groups embedding_lr embedding_lr_scale"),
    ("further schedules", (), "cosine_constant_lr_ratio=0|0.0 lr_quadratic_warmup eta_min"),
    ("a batch size over all devices; gradient_accumulation_steps is the way", (), "batch_size"),
    ("tensor, pipeline, sequence and data-sharded parallelism (come with their strategies)", (),
     "dp_shard_size=1 dp_replicate_size=1 context_parallel_size=1 sequence_parallel_degree=1 expert_parallel_size=1 "
     "deepcompile"),
    ("stopping a run that diverges", (), "loss_watchdog_threshold"),
    ("metrics beyond the loss", (), "do_causal_lm_eval do_bench_eval eval_table_size generate_samples"),
    ("process reward models", (), "process_reward_model"),
    ("reinforcement learning by trl's and vLLM's settings", (), "trl vllm ebft"),
    ("preference training's own switches", (), "dpo_use_weighting dpo_norm_loss center_rewards_coefficient dpo_loss_weights "
     "precompute_ref_log_probs"),
    ("diffusion language models", (), "diffusion"),
    ("losses of its own", (), "use_eaft"),
    ("kernels of single models", (), "use_dsv4_kernels use_glm_dsa_kernels"),
    ("compression", (), "llmcompressor"),
    ("LISA (comes with the lisa tuner)", (), "lisa_n_layers"),
    ("mixture-of-experts kernels (come with the MoE models)", (), "experts_implementation use_scattermoe use_sonicmoe "
     "llama4_linearized_experts"),
    ("curricula and position skipping", (), "curriculum_sampling use_pose"),
    ("rows by a lower bound of length", (), "min_sample_len"),
    ("shards of data", (), "dataset_shard_num num_dataset_shards_to_save"),
    ("a longest prompt", (), "max_prompt_len"),
    ("Weights & Biases (comes with its tracker)", (), "use_wandb wandb_project wandb_name wandb_mode"),
    ("MLflow (comes with its tracker)", (), "use_mlflow mlflow_tracking_uri mlflow_experiment_name mlflow_run_name"),
    ("Comet (comes with its tracker)", (), "use_comet comet_project_name"),
    ("SwanLab (comes with its tracker)", (), "use_swanlab"),
    ("Trackio (comes with its tracker)", (), "use_trackio trackio_project_name"),
    ("OpenTelemetry", (), "use_otel_metrics"),
    ("Ray (comes with the ray launcher)", (), "use_ray"),
    ("pushing of data to a hub", (), "push_dataset_to_hub"),
    ("profiling", (), "profiler_steps"),
    ("saving on request", (), "dynamic_checkpoint save_first_step"),
    ("another trainer class; an objective plugin is the way", (), "trainer_cls"),
)
DETAILS: tuple[Group, ...] = (
    ("read from the model's own files", (),
     "model_type tokenizer_type type_of_model processor_type processor_kwargs tokenizer_use_fast tokenizer_legacy "
     "tokenizer_save_jinja_files is_llama_derived_model is_falcon_derived_model is_mistral_derived_model is_qwen_derived_model "
     "tokenizer_use_mistral_common"),
    ("tokens are kept in a cache by content", (), "dataset_prepared_path dataset_keep_in_memory skip_prepare_dataset "
     "preprocess_iterable is_preprocess"),
    ("packs are made to length, documents in them kept apart", (),
     "pad_to_sequence_len pad_to_multiple_of sample_packing_group_size sample_packing_bin_size sample_packing_sequentially "
     "sample_packing_eff_est eval_sample_packing multipack_real_batches pretrain_multipack_attn "
     "pretraining_sample_concatenation "
     "pretrain_multipack_buffer_size streaming_multipack_buffer_size shuffle_before_merging_datasets total_num_tokens "
     "sample_packing_mp_start_method eval_sequence_len"),
    ("it changes speed and memory, not the result", (),
     "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel flash_attn_cross_entropy flash_attn_rms_norm "
     "flash_attn_fuse_mlp flash_attn_fuse_qkv flash_optimum flash_attn_d512 fused_attn_kernel use_kernels "
     "flex_attn_compile_kwargs liger_rope liger_rms_norm liger_rms_norm_gated liger_layer_norm liger_glu_activation "
     "liger_swiglu liger_fused_linear_cross_entropy liger_cross_entropy cut_cross_entropy chunked_cross_entropy "
     "chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp activation_offloading "
     "layer_offloading selective_checkpointing gc_steps gc_collect_steps lora_on_cpu qlora_sharded_model_loading "
     "low_cpu_mem_usage gemma4_hybrid_attn_impl large_head_attention sdpa_varlen ple_cpu_offload dsv4_fp4_grouped_mode"),
    ("the end of a turn is read from the chat template", (), "eot_tokens"),
    ("embeddings are resized for new tokens only", (), "resize_token_embeddings_to_32x mean_resizing_embeddings "
     "embeddings_skip_upcast fix_untrained_tokens"),
    ("read from the weights", (), "lora_fan_in_fan_out peft_autocast_adapter_dtype peft_ensure_weight_tying"),
    ("how processes are started is Swift's", (), "world_size device ddp ddp_backend launcher num_processes main_process_port "
     "experimental_skip_move_to_device torchdistx_path"),
    ("every unknown key is an error", (), "strict"),
    ("a run names itself", (), "debug axolotl_config_path wandb_run_id wandb_watch wandb_log_model wandb_entity "
     "swanlab_experiment_name swanlab_description swanlab_log_completions swanlab_completion_log_interval "
     "swanlab_completion_max_buffer mlflow_log_artifacts hf_mlflow_log_artifacts comet_workspace comet_experiment_key "
     "trackio_run_name"),
    ("a detail of what is not built", (), "gptq_groupsize gptq_model_v1 gptq_disable_exllama model_quantization_config_kwargs "
     "loss_watchdog_patience noise_schedule eaft_alpha eaft_k ring_attn_func heads_k_stride fsdp_version "
     "fsdp_final_state_dict_type "
     "fp8_config nvfp4_merge_aware lisa_step_interval lisa_layers_attribute dion_lr dion_momentum dion_rank_fraction "
     "dion_rank_multiple_of adam_beta3 adam_epsilon2 bench_dataset bench_split eval_causal_lm_metrics loraplus_lr_embedding "
     "relora_cpu_offload jagged_restart_warmup_steps jagged_restart_anneal_steps otel_metrics_host otel_metrics_port "
     "expert_parallel_num_nvl_bytes expert_parallel_token_capacity eval_max_new_tokens fp8_enable_fsdp_float8_all_gather "
     "base_model_ignore_patterns swanlab_log_model "
     "ray_num_workers ray_run_name resources_per_worker qgalore_rank early_stop use_onebitllms"),
    ("throughput is always in the log", (), "include_tkps"),
    ("a token of the hub is read from HF_TOKEN", (), "hf_use_auth_token"),
    ("only multimodal models read it", (), "image_size image_resize_algorithm role_boundaries freeze_mm_modules"),
    ("memory is the planner's to know", (), "gpu_memory_limit"),
    ("Swift merges in one way", (), "merge_method merge_lora"),
    ("a page for chats is not built", (), "gradio gradio_title gradio_share gradio_server_name gradio_server_port "
     "gradio_max_new_tokens gradio_temperature chat prompter"),
    ("only generation in training reads it", (), "num_generation_samples generation_max_new_tokens generation_temperature "
     "generation_top_p generation_top_k generation_prompt_ratio generation_do_sample"),
)
# fmt: on


def rules() -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in (*ALIASES, *laters(LATER), *ignored(DETAILS)):
        found[rule.old] = (*found.get(rule.old, ()), rule)
    return found


def prepare(items: dict[str, Any], context: Context) -> dict[str, Any]:
    """Lists of datasets become references and columns; without an adapter everything is trained; qlora is LoRA on four bits."""
    if context.verb in USE:
        for key in ("datasets", "test_datasets", "pretraining_dataset", "adapter"):
            items.pop(key, None)
        if items.get("lora_model_dir") is None and context.result.verb and items.get("output_dir"):
            items["lora_model_dir"] = items.pop("output_dir")
        return items
    for same in ("base_model_config", "tokenizer_config"):
        if items.get(same) == items.get("base_model"):
            items.pop(same, None)
    if str(items.get("adapter") or "").lower() == "qlora":
        items.setdefault("load_in_4bit", True)
    if not items.get("adapter"):
        for key in [key for key in items if key.startswith(("lora_", "peft_")) and key != "lora_model_dir"]:
            if items.pop(key) is not None:
                context.result.words.append(Word(key, "", "not needed", "no adapter is chosen"))
    if isinstance(items.get("rl"), str):
        context.verb = "rlhf"
    found: dict[str, Any] = {}
    for key, value in items.items():
        if key in ("datasets", "test_datasets", "pretraining_dataset") and value:
            found |= _datasets(key, value, context)
        elif key == "gradient_checkpointing_kwargs" or not (key in ("datasets", "test_datasets") and not value):
            found[key] = value
    if found.get("objective") == "pt" and context.verb == "sft":
        context.verb = "pt"
        if found.pop("train_on_inputs", None) is not None:
            context.result.words.append(Word("train_on_inputs", "", "not needed", "plain text is trained on as a whole"))
    return found


def _datasets(key: str, value: Any, context: Context) -> dict[str, Any]:
    refs: list[str] = []
    columns: dict[str, str] = {}
    kinds: set[str] = set()
    words = context.result.words
    for item in value if isinstance(value, list) else [value]:
        item = {"path": item} if isinstance(item, str) else dict(item)
        refs.append(_reference(item))
        kind = item.get("type")
        if isinstance(kind, Mapping):
            columns |= {str(kind[f]): to for f, to in _FIELDS.items() if kind.get(f)}
            for name in ("format", "no_input_format", "system_format", "prompt_format", "chosen_format"):
                if kind.get(name) and str(kind[name]).strip() not in ("{instruction}", "{instruction} {input}"):
                    words.append(
                        Word(f"{key}.type.{name}", str(kind[name]), "not built yet", "texts put around the fields of a row")
                    )
            kind = None
        kinds.add(str(kind or ""))
        known = kind in RECOGNISED or str(kind).partition(":")[0] in RECOGNISED or str(kind).split(".")[0] in ("chat_template",)
        if not known:
            text = f"rows of the type {kind}; `swift data check` says whether their columns are understood"
            words.append(Word(f"{key}.type", str(kind), "open", text))
        columns |= {str(item[f]): to for f, to in _FIELDS.items() if item.get(f) and item[f] != to}
        mapping = item.get("message_property_mappings")
        if isinstance(mapping, Mapping):
            columns |= {str(own): to for to, own in mapping.items() if own not in _MESSAGE}
        for name, what in _OPEN.items():
            if item.get(name) not in (None, False, "", *_SAME.get(name, ())):
                words.append(Word(f"{key}.{name}", str(item[name]), "not built yet", what))
    text_only = key == "pretraining_dataset" or kinds <= {"completion", "pretrain"}
    words.append(Word(key, f"({len(refs)})", "mapped"))
    found: dict[str, Any] = {"val_dataset" if key == "test_datasets" else "dataset": refs}
    if columns:
        found["columns"] = columns
    if text_only and key != "test_datasets":
        found["objective"] = "pt"
    if key == "pretraining_dataset":
        found["streaming"] = True
    return found


def _reference(item: Mapping[str, Any]) -> str:
    files = item.get("data_files")
    if files and item.get("ds_type") not in (None, "") and len(as_list(files)) == 1:
        return str(as_list(files)[0])
    return f"{item.get('path')}:{item['name']}" if item.get("name") else str(item.get("path"))


_FIELDS = {
    "field_messages": "messages", "field_instruction": "instruction", "field_input": "input", "field_output": "output",
    "field_system": "system", "field_tools": "tools", "field": "text", "text_column": "text", "field_chosen": "chosen",
    "field_rejected": "rejected", "field_prompt": "prompt", "field_completion": "completion", "field_label": "label",
}  # fmt: skip
"""Its names of a dataset's columns -> canonical ones."""
_MESSAGE = {"role", "content", "from", "value"}
_SAME = {"split": ("train",), "train_on_eos": ("turn", "all"), "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"]),
         "shards": (1,)}  # fmt: skip
_OPEN = {
    "split": "a split that is not `train`; give its file",
    "shards": "a part of a dataset by shards; X#500 takes 500 rows",
    "roles_to_train": "loss on other roles than the assistant's; a message's own `loss` is read",
    "train_on_eos": "a loss on other ends of turns",
    "message_field_training": "a column that says which messages are trained; a message's own `loss` is read",
    "message_field_training_detail": "a loss on parts of messages",
    "roles": "other names of roles; user, human, assistant, gpt, system and tool are known",
    "drop_system_message": "leaving out system messages",
    "split_thinking": "taking thoughts out of answers",
    "revision": "a revision of a dataset",
    "input_transform": "code that rewrites rows; register_dataset does it in Python",
}


def defaults(verb: str, values: Mapping[str, Any]) -> Iterable[Default]:
    if verb in USE:
        return
    yield Default("tuner.name", "full", "without an adapter")
    packed = values.get("data.batching") == "packed"
    length = values.get("data.max_length", 512)
    yield from (
        Default("data.max_length", 512, "sequence_len"), Default("data.overlong", "drop", "excess_length_strategy"),
        Default("data.batching", "unpacked", "sample_packing"),
        Default("train.gradient_accumulation_steps", 1, "gradient_accumulation_steps"),
        Default("train.weight_decay", 0.0, "weight_decay"), Default("@optimizer.beta2", 0.999, "adam_beta2"),
        Default("@tuner.dropout", 0.0, "lora_dropout"), Default("checkpoint.save_total_limit", 4, "save_total_limit"),
    )  # fmt: skip
    if packed:
        yield Default("data.packing_length", length, "of packing to sequence_len")


FRAMEWORK = Framework(
    AXOLOTL,
    rules(),
    {
        "train": "sft", "": "sft", "inference": "chat", "merge-lora": "merge-lora", "preprocess": "", "evaluate": "",
        "quantize": "", "vllm-serve": "", "lm-eval": "",
    },
    prepare,
    defaults,
)  # fmt: skip
