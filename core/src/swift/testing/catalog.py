"""The contract of a vendor's catalog: names, ids, and numbers that transformers counts again from the published shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM

from swift.api import ModelSpec

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
REQUIRED = ("summary", "loader", "hub_ids", "parameters", "context_length", "architecture", "linear_modules")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class CatalogContract:
    """Subclass it in a vendor's tests.

    Args:
        models: The catalog.
        shapes: Key -> transformers config of a published shape.
        patterns: Key -> regular expression over the names of the entries that have this shape.
        not_linear: Names of linear layers that adapters leave alone (routers).
    """

    models: ClassVar[Sequence[ModelSpec]] = ()
    shapes: ClassVar[Mapping[str, Any]] = {}
    patterns: ClassVar[Mapping[str, str]] = {}
    not_linear: ClassVar[frozenset[str]] = frozenset({"gate", "shared_expert_gate"})

    def test_names_and_ids_are_legal_and_unique(self) -> None:
        illegal = [spec.name for spec in self.models if not NAME.fullmatch(spec.name)]
        assert not illegal, f"{illegal} are not legal names"
        known = [word for spec in self.models for word in (spec.name, *spec.aliases)]
        twice = sorted({word for word in known if known.count(word) > 1})
        assert not twice, f"a name or alias stands twice: {twice}"
        for hub in {hub for spec in self.models for hub in spec.hub_ids}:
            ids = [spec.hub_ids[hub] for spec in self.models if hub in spec.hub_ids]
            assert len(ids) == len(set(ids)), f"two entries have one id on {hub}"
            wrong = [i for i in ids if not REPOSITORY.fullmatch(i)]
            assert not wrong, f"{wrong} are no ids of {hub}"

    def test_every_entry_is_complete_and_pure_data(self) -> None:
        for spec in self.models:
            assert not spec.impl, f"{spec.name} names an implementation; an entry names its loader"
            lacks = [field for field in REQUIRED if not getattr(spec, field)]
            assert not lacks, f"{spec.name} lacks its {', '.join(lacks)}"
            assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec, f"{spec.name} changes through JSON"

    def test_parameters_are_those_of_the_published_shape(self) -> None:
        counted = {key: parameters(config) for key, config in self.shapes.items()}
        for spec in self.models:
            keys = [key for key, pattern in self.patterns.items() if re.fullmatch(pattern, spec.name)]
            assert len(keys) == 1, f"{spec.name} matches {keys}"
            assert spec.parameters == counted[keys[0]], f"{spec.name}: {spec.parameters}, its shape has {counted[keys[0]]}"
            architecture = AutoModelForCausalLM._model_mapping[type(self.shapes[keys[0]])].__name__
            assert architecture == spec.architecture, f"{spec.name}: {spec.architecture}, its shape is of {architecture}"

    def test_linear_modules_are_those_of_the_architecture(self) -> None:
        for config in self.shapes.values():
            one_block = type(config)(**config.to_dict() | {"num_hidden_layers": 1, "layer_types": None})
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(one_block)
            linear = {
                name.rpartition(".")[2]
                for name, module in model.model.layers.named_modules()
                if isinstance(module, torch.nn.Linear)
            }
            declared = {spec.linear_modules for spec in self.models if spec.architecture == type(model).__name__}
            assert declared, f"no entry is a {type(model).__name__}, of which a shape is given"
            for names in declared:
                wrong = sorted(set(names) ^ (linear - self.not_linear))
                assert not wrong, f"linear_modules of {type(model).__name__} differ from the model's own in {wrong}"


def parameters(config: Any) -> int:
    """Parameters of a model of this shape, tied ones once; allocates none."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())
