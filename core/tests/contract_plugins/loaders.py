"""One right model loader, and loaders with one fault each."""

from __future__ import annotations

from pathlib import Path

import torch
from acme_kit.counters import tiles
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from swift.api import DataError, LoadedModel, LoadRequest, MediaProcessor, Medium, ModelError, ModelLoader


class Right(ModelLoader):
    def load(self, request: LoadRequest) -> LoadedModel:
        model = self.random(request) if request.init == "random" else self.pretrained(request)
        return LoadedModel(model, self.load_tokenizer(request.folder), "sdpa", keeps_documents_apart=True)

    def dtype(self, request: LoadRequest) -> torch.dtype:
        return getattr(torch, request.dtype)

    def seed(self, request: LoadRequest) -> None:
        torch.manual_seed(request.seed)

    def random(self, request: LoadRequest) -> torch.nn.Module:
        self.seed(request)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(request.folder), dtype=self.dtype(request))

    def pretrained(self, request: LoadRequest) -> torch.nn.Module:
        if not list(request.folder.glob("*.safetensors")):
            raise ModelError(f"{request.folder} has no weights")
        return AutoModelForCausalLM.from_pretrained(request.folder, dtype=self.dtype(request))

    def load_tokenizer(self, folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(folder)


class DrawsAnew(Right):
    def seed(self, request):
        torch.seed()


class IgnoresSeed(Right):
    def seed(self, request):
        torch.manual_seed(0)


class NeedsNoWeights(Right):
    def pretrained(self, request):
        return super().pretrained(request) if list(request.folder.glob("*.safetensors")) else self.random(request)


class RaisesOther(Right):
    def pretrained(self, request):
        if not list(request.folder.glob("*.safetensors")):
            raise KeyError("model.safetensors")
        return super().pretrained(request)


class MixesDocuments(Right):
    def load(self, request):
        loaded = super().load(request)
        forward = loaded.model.forward
        loaded.model.forward = lambda position_ids=None, **inputs: forward(**inputs)
        return loaded


class RoundsWeights(Right):
    def pretrained(self, request):
        return super().pretrained(request).bfloat16().to(self.dtype(request))


class IgnoresDtype(Right):
    def dtype(self, request):
        return torch.float32


class OtherTokenizer(Right):
    def load_tokenizer(self, folder, *, trust_remote_code=False):
        tokenizer = super().load_tokenizer(folder)
        tokenizer.add_tokens(["abc"])
        return tokenizer


class Tiles(MediaProcessor):
    """An image is as many tokens as it has tiles, within bounds of pixels."""

    placeholders = {"images": "<|image_pad|>"}

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **bounds: int | None) -> None:
        self.placeholder_ids, self.bounds = frozenset(tokenizer.convert_tokens_to_ids(["<|image_pad|>"])), bounds

    def text(self, kind: str, size: tuple[int, int]) -> str:
        count = tiles(*size, **self.bounds)
        if not count:
            raise DataError("the image is too long")
        return "<|image_pad|>" * count

    def medium(self, kind: str, item: object) -> Medium:
        raise NotImplementedError

    def digest(self) -> str:
        return repr(self.bounds)

    def save_pretrained(self, folder: Path) -> None:
        raise NotImplementedError


class Sees(Right):
    def load_processor(self, folder, tokenizer, *, trust_remote_code=False, files=None, min_pixels=None, max_pixels=None):
        return Tiles(tokenizer, min_pixels=min_pixels, max_pixels=max_pixels)


class SeesOneSize(Right):
    """Has no bounds of pixels, as LLaVA."""

    def load_processor(self, folder, tokenizer, *, trust_remote_code=False, files=None, min_pixels=None, max_pixels=None):
        if min_pixels or max_pixels:
            raise ModelError("all images are scaled to one size")
        return Tiles(tokenizer)
