"""One right model loader, and loaders with one fault each."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from swift.api import LoadedModel, LoadRequest, ModelError, ModelLoader


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
