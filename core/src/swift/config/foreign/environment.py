"""Environment variables that ms-swift reads, and what they are here. Standard library only."""

from __future__ import annotations

FIELDS = {
    "DEVICE": "device.name",
    "NPROC_PER_NODE": "parallel.nproc_per_node",
    "NNODES": "parallel.nnodes",
    "NODE_RANK": "parallel.node_rank",
    "MASTER_ADDR": "parallel.master_addr",
    "MASTER_PORT": "parallel.master_port",
    "USE_HF": "model.hub",
    "MAX_PIXELS": "template.max_pixels",
    "MIN_PIXELS": "template.min_pixels",
}
"""Variable -> field that it stands for."""

HONOURED = {
    **dict.fromkeys(
        ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
        "the devices that this run sees",
    ),
    **dict.fromkeys(("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"), "read by Hugging Face's hub"),
    **dict.fromkeys(("MODELSCOPE_CACHE", "MODELSCOPE_ENDPOINT"), "read by ModelScope's hub"),
    **dict.fromkeys(("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF"), "read by torch"),
    "SWIFT_HOME": "folder of Swift's caches",
    "SWIFT_CONFIG": "folder of the plugin preferences",
    "SWIFT_PLUGINS": "the plugins that are used",
    "SWIFT_LOCKED": "lock file of the plugins",
    "SWIFT_STRICT_PLUGINS": "a broken plugin is an error",
}
"""Variable that acts by itself -> what it does; shown in the plan where it is set."""

_MEDIA = "--max_pixels and --min_pixels bound images; video and audio come with models that take them"
_MEGATRON = "comes with the megatron strategy"
ANSWERED = {
    **dict.fromkeys(
        (
            "IMAGE_FACTOR", "IMAGE_MAX_TOKEN_NUM", "IMAGE_MIN_TOKEN_NUM", "VIDEO_MAX_PIXELS",
            "VIDEO_MIN_PIXELS", "VIDEO_TOTAL_PIXELS", "VIDEO_MAX_TOKEN_NUM", "VIDEO_MIN_TOKEN_NUM", "VIDEO_SEGMENTS", "NFRAMES",
            "FPS", "FPS_MAX_FRAMES", "FPS_MIN_FRAMES", "FRAME_FACTOR", "MAX_NUM", "INPUT_SIZE", "SAMPLING_RATE",
            "USE_AUDIO_IN_VIDEO", "ENABLE_AUDIO_OUTPUT", "MAX_SLICE_NUMS", "VIDEO_MAX_SLICE_NUMS", "MAX_NUM_FRAMES", "HD_NUM",
            "NUM_FRAMES", "SIZE_FACTOR", "DYNAMIC_CROP", "BASE_SIZE", "IMAGE_SIZE", "CROP_MODE", "QWENVL_BBOX_FORMAT",
        ),
        f"has no effect yet: {_MEDIA}",
    ),
    "ROOT_IMAGE_DIR": "has no effect: --media_folder is the folder of relative paths",
    "USE_MODELSCOPE_HUB": "has no effect: --hub names the hub",
    "SWIFT_DEBUG": "shows the traceback of errors",
    **dict.fromkeys(("CELOSS_PARALLEL_SIZE",), "has no effect: --logits_memory bounds the memory of logits"),
    **dict.fromkeys(
        ("SWIFT_PATCH_CONV3D", "DISABLE_MP_DDP", "SWIFT_SINGLE_DEVICE_MODE"), "has no effect: there is no such patch"
    ),
    **dict.fromkeys(("CUDA_DEVICE_MAX_CONNECTIONS", "MEGATRON_LM_PATH"), f"has no effect yet: {_MEGATRON}"),
    **dict.fromkeys(
        ("INFONCE_TEMPERATURE", "INFONCE_USE_BATCH", "INFONCE_HARD_NEGATIVES", "INFONCE_MASK_FAKE_NEGATIVE",
         "INFONCE_FAKE_NEG_MARGIN", "INFONCE_INCLUDE_QQ", "INFONCE_INCLUDE_DD", "LISTWISE_RERANKER_TEMPERATURE",
         "LISTWISE_RERANKER_MIN_GROUP_SIZE", "MAX_POSITIVE_SAMPLES", "MAX_NEGATIVE_SAMPLES"),
        "has no effect yet: embedding and reranking come with their objectives",
    ),
    "DEVICE_TFLOPS": "has no effect: devices know their speed",
    "RANDOM_DATASET_RESPONSE": "has no effect: a row's answer is never drawn at random",
}  # fmt: skip
"""Variable of ms-swift's that Swift does not read -> why, or what to use."""


def meaning(name: str) -> str:
    return HONOURED.get(name) or ANSWERED.get(name, "")
