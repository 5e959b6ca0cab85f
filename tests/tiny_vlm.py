"""Image-text models of toy size: transformers' own classes with random weights, and processors that need no hub."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = [
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
TEXT = ["what stands in the picture? a red square and a blue circle on white", "user assistant system you are helpful"]
TEXT_SIZE = dict(
    vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=4,
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>")


def write_llava(folder: Path) -> Path:
    """Each image is cut to 28 x 28 pixels: 4 tokens."""
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=14
    )
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT_SIZE), image_token_id=SPECIAL.index("<image>"), image_seq_length=4
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), tokenizer(), patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_qwen(folder: Path, *, version: str = "2.5") -> Path:
    """A token for each square of two by two patches, 1 to 16 an image."""
    torch.manual_seed(1)
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": SPECIAL.index(f"<|{token}|>") for name, token in tokens.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT_SIZE, "rope_parameters": rope}
    vision = dict(
        hidden_size=32, intermediate_size=64, depth=2, num_heads=4, patch_size=14, out_hidden_size=32, initializer_range=0.3
    )
    patch = 14
    if version == "2.5":
        vision |= dict(fullatt_block_indexes=[1], window_size=56)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids))
    elif version == "2":
        vision = dict(embed_dim=32, hidden_size=32, depth=2, num_heads=4, patch_size=14, mlp_ratio=2, initializer_range=0.3)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, text_config=text, **ids))
    else:
        patch = 16
        vision |= dict(patch_size=patch, deepstack_visual_indexes=[0], num_position_embeddings=64)
        text |= {"head_dim": 8, "rope_parameters": {**rope, "mrope_section": [2, 1, 1], "mrope_interleaved": True}}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids))
    model.save_pretrained(folder)
    square = (2 * patch) ** 2
    qwen_processor(version)(
        Qwen2VLImageProcessorPil(min_pixels=square, max_pixels=16 * square, patch_size=patch), tokenizer(), None,
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen_processor(version: str = "2.5") -> type:
    """transformers' processor without its part for videos, which needs torchvision."""
    whole = {"2": Qwen2VLProcessor, "2.5": Qwen2_5_VLProcessor, "3": Qwen3VLProcessor}[version]
    return type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda cls: ["image_processor", "tokenizer"])})


def draw(path: Path, width: int, height: int, colour: str = "red") -> Path:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), fill=colour)
    image.save(path)
    return path
