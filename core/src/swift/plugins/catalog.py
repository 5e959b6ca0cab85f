"""First-party components by name, so that asking for one that is not installed answers with what to do.

A distribution name means it is built and pip can install it. Everything else is understood, but not built yet.
"""

from __future__ import annotations

BUILT: dict[str, dict[str, str]] = {
    "swift-llm-device-cpu": {"device": "cpu"},
    "swift-llm-device-cuda": {"device": "cuda"},
    "swift-llm-tuner-full": {"tuner": "full freeze"},
    "swift-llm-tuner-peft": {
        "tuner": "lora rslora dora pissa lora-plus adaption-prompt beft boft c3a deft delora fourierft frod glora gralora hira "
        "hra ia3 lily ln-tuning loha lokr miss oft osf p-tuning peanut prefix-tuning prompt-tuning psoft pvera randlora road "
        "shira supertuning tinylora trainable-tokens unilora vblora vera waveft"
    },
    "swift-llm-parallel-torch": {"parallel": "single ddp"},
    "swift-llm-engine-transformers": {"engine": "transformers"},
    "swift-llm-model-transformers": {"model": "transformers"},
    "swift-llm-model-qwen": {"model": "qwen*"},
    "swift-llm-model-llama": {"model": "llama* codellama*"},
    "swift-llm-model-mistral": {"model": "mistral* mixtral* ministral* mathstral* codestral* devstral*"},
    "swift-llm-hub-huggingface": {"hub": "huggingface"},
    "swift-llm-objective-causal": {"objective": "pt sft"},
    "swift-llm-objective-preference": {"objective": "dpo"},
    "swift-llm-optimizer-torch": {"optimizer": "adamw sgd adafactor"},
    "swift-llm-optimizer-bitsandbytes": {
        "optimizer": "adamw-8bit adamw-bnb-8bit adamw-torch-8bit paged-adamw paged-adamw-8bit paged-adamw-32bit lion-8bit "
        "paged-lion-8bit"
    },
    "swift-llm-launcher-torchrun": {"launcher": "torchrun"},
    "swift-llm-template-families": {
        "template": "chatml qwen hermes llama2 llama3 llama3.1 llama4 mistral mistral-v3 mistral-v7 gemma gemma3 phi4 deepseek "
        "deepseek-v3 glm4 internlm2 internlm2.5 harmony gpt-oss"
    },
    "swift-llm-tracker-tensorboard": {"tracker": "tensorboard"},
    "swift-llm-exporter-merged": {"exporter": "merged"},
    "swift-llm-dataset-text": {
        "dataset": "alpaca* coig* databricks-dolly* firefly* gsm8k* hc3* infinity* lmsys* longwriter* magpie* math* metamath* "
        "numina* open* orca-math* ruozhiba* self-cognition* sharegpt* slimorca* smoltalk* stsb* tulu* ultrachat* wikitext*"
    },
    "swift-llm-dataset-preference": {"dataset": "dpo-* hh* kto-* orca_dpo* orpo-dpo* ultrafeedback* verifiable-coding*"},
    "swift-llm-dataset-multimodal": {
        "dataset": "a-okvqa* chartqa* coco* geometry3k* grit* latex* llava* m3it* mantis* ocr-vqa* refcoco* scienceqa* "
        "textcaps* vqa*"
    },
    "swift-llm-tiny": {"model": "tiny", "dataset": "tiny*"},
}
"""Distribution -> kind -> names that it offers; a trailing * stands for any ending."""

PLANNED: dict[str, str] = {
    "parallel": "deepspeed deepspeed-zero1 deepspeed-zero2 deepspeed-zero3 zero0 zero1 zero2 zero3 fsdp fsdp1 fsdp2 megatron "
    "tensor tp pipeline pp sequence ulysses ring expert ep context",
    "quantizer": "bnb bitsandbytes gptq awq hqq torchao quanto eetq fp8 aqlm",
    "engine": "vllm sglang lmdeploy",
    "tuner": "galore q-galore lisa llamapro longlora longlora-full reft loreft unsloth adapter vit-lora lora-ga",
    "hub": "modelscope",
    "tracker": "wandb swanlab mlflow comet trackio aim clearml",
    "device": "npu mps xpu hpu musa mlu tpu",
    "objective": "kto orpo grpo cpo simpo ppo rm gkd rloo reinforce reward seq-cls embedding reranker",
    "optimizer": "muon galore lion apollo adam-mini shampoo",
    "exporter": "gguf ollama gptq awq bnb fp8 onnx mcore megatron",
    "launcher": "slurm ray deepspeed dlc kubernetes",
    "evaluator": "evalscope opencompass vlmeval lm-eval mmlu gsm8k ceval",
}
"""Kind -> names that are understood, but not built yet."""


def dist_for(kind: str, name: str) -> str:
    """The built first-party distribution that offers it, or ""."""
    name = name.casefold().replace("_", "-")
    for dist, offers in BUILT.items():
        for word in offers.get(kind, "").split():
            if name == word or (word.endswith("*") and name.startswith(word[:-1])):
                return dist
    return ""


def is_planned(kind: str, name: str) -> bool:
    return name.casefold().replace("_", "-") in PLANNED.get(kind, "").split()


def built_names(kind: str) -> list[str]:
    return [w for offers in BUILT.values() for w in offers.get(kind, "").split() if not w.endswith("*")]
