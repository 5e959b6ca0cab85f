from pathlib import Path

from transformers import AutoConfig, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from swift.testing import byte_tokenizer, contract


def write_llava(folder: Path) -> Path:
    """Each image is cut to 28 x 28 pixels: 4 tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    vision = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14}
    AutoConfig.for_model("llava", vision_config=vision, text_config={"model_type": "llama"}).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


TestTransformers = contract("model:transformers")
TestLlama = contract("model:transformers", architecture="llama", image_folder=write_llava)
TestMistral = contract("model:transformers", architecture="mistral")
