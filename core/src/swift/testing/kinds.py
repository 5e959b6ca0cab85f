"""Contract classes, one per kind, plus one per claim that a spec can make. Real tiny models on the CPU; seconds each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from swift.api import LoadRequest
from swift.data import tasks
from swift.data.records import load_records
from swift.data.tasks import lacks, ships
from swift.errors import ModelError
from swift.plugins.loading import load_object, package_path
from swift.testing import datasets
from swift.testing.descriptor import DescriptorContract, heavy_imports
from swift.testing.ranks import PlainCpu
from swift.testing.tiny import tiny_folder


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


@functools.lru_cache(maxsize=1)
def loaded(folder: Path) -> nn.Module:
    """The model of a folder, which a copy is faster than reading again."""
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


class TunerContract(DescriptorContract):
    """What is declared trains, nothing else does, and it comes back bit by bit."""

    ids = torch.arange(3, 43)[None]

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tiny_folder(tmp_path_factory.mktemp("base"))

    def base(self, folder: Path) -> nn.Module:
        return copy.deepcopy(loaded(folder))

    @pytest.fixture
    def tuner(self, spec: Any, settings: Any) -> Any:
        return load_object(spec.impl)(settings, spec.name)

    def trained(self, tuner: Any, folder: Path, steps: int = 2, lr: float = 1e-2) -> tuple[nn.Module, list[float]]:
        model = tuner.apply(self.base(folder), seed=0)
        optimizer = torch.optim.AdamW(tuner.parameter_groups(model, learning_rate=lr, weight_decay=0.0))
        losses = []
        model.train()
        torch.manual_seed(0)
        for _ in range(steps):
            loss = model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
        return model, losses

    def test_something_is_trained(self, tuner: Any, folder: Path) -> None:
        model = tuner.apply(self.base(folder), seed=0)
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        assert names, f"{self.component} sets requires_grad on nothing"

    def test_as_much_is_trained_as_the_spec_says(self, tuner: Any, folder: Path, spec: Any) -> None:
        """Conditions over `tuner.trainable` read whether all weights train. Of how some do, nothing is measured."""
        model = self.base(folder)
        own = {id(p): name for name, p in model.named_parameters()}
        trained = {id(p) for p in tuner.apply(model, seed=0).parameters() if p.requires_grad}
        left = sorted(name for key, name in own.items() if key not in trained)
        if spec.trainable == "all":
            assert not left, f"trainable is 'all', and {len(left)} weights of the base do not train: {left[:3]}"
        else:
            assert left, f"trainable is {spec.trainable!r}, and every weight of the base trains"

    def test_a_step_changes_only_what_is_declared(self, tuner: Any, folder: Path) -> None:
        model = tuner.apply(self.base(folder), seed=0)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        declared = {n for n, p in model.named_parameters() if p.requires_grad}
        groups = tuner.parameter_groups(model, learning_rate=1e-2, weight_decay=0.0)
        grouped = {id(p) for g in groups for p in g["params"]}
        stray = [n for n, p in model.named_parameters() if id(p) in grouped and n not in declared]
        assert not stray, f"parameter_groups hands frozen weights to the optimizer: {stray}"
        missing = [n for n, p in model.named_parameters() if n in declared and id(p) not in grouped]
        assert not missing, f"parameter_groups forgets trainable weights: {missing}"
        optimizer = torch.optim.AdamW(groups)
        model.train()
        model(input_ids=self.ids, labels=self.ids, use_cache=False).loss.backward()
        optimizer.step()
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed <= declared, f"a step changed frozen weights: {sorted(changed - declared)}"
        assert changed, "a step changed nothing"

    def test_loss_falls(self, tuner: Any, folder: Path) -> None:
        _, losses = self.trained(tuner, folder, steps=20)
        assert losses[-1] < losses[0], f"the loss did not fall in 20 steps: {losses[0]:.4f} -> {losses[-1]:.4f}"

    def test_restore_is_exact(self, tuner: Any, folder: Path, tmp_path: Path, spec: Any, settings: Any) -> None:
        model, _ = self.trained(tuner, folder)
        tuner.save(model, tmp_path)
        again_tuner = load_object(spec.impl)(settings, spec.name)
        again = again_tuner.apply(self.base(folder), seed=0)
        again_tuner.restore(again, tmp_path)
        for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
            if a.requires_grad:
                assert torch.equal(a, b), f"{name} differs after save and restore"
        assert torch.equal(logits(model, self.ids), logits(again, self.ids)), (
            "the logits differ after save and restore, though the trained weights do not: something else was changed"
        )

    def test_the_seed_alone_decides(self, tuner: Any, folder: Path) -> None:
        """Ranks and a resumed run each call `apply`, whatever was drawn before."""
        first, second = self.base(folder), self.base(folder)
        torch.manual_seed(1)
        first = tuner.apply(first, seed=0)
        torch.manual_seed(2)
        second = tuner.apply(second, seed=0)
        for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
            assert torch.equal(a, b), f"{name} differs between two calls of apply with the same seed"

    def test_saved_result_answers_as_the_trained_model(self, tuner: Any, folder: Path, tmp_path: Path, spec: Any) -> None:
        model, _ = self.trained(tuner, folder)
        tuner.save(model, tmp_path)
        if spec.artifact == "adapter":
            loaded = tuner.load(self.base(folder), tmp_path)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        difference = (logits(loaded, self.ids) - logits(model, self.ids)).abs().max().item()
        assert difference < 1e-4, f"the saved result differs from the trained model by {difference:.2e} in its logits"


class IdentityAtInit(TunerContract):
    """Claim `identity_at_init`."""

    def test_identity_at_init(self, tuner: Any, folder: Path) -> None:
        reference = logits(self.base(folder), self.ids)
        tuned = logits(tuner.apply(self.base(folder), seed=0), self.ids)
        difference = (tuned - reference).abs().max().item()
        assert difference < 1e-4, f"claims identity_at_init, but the logits differ by {difference:.2e} before the first step"


class Mergeable(TunerContract):
    """Claim `mergeable`."""

    def test_merge_equals_the_tuned_model(self, tuner: Any, folder: Path) -> None:
        model, _ = self.trained(tuner, folder)
        tuned = logits(model, self.ids)
        merged = tuner.merge(copy.deepcopy(model))
        difference = (logits(merged, self.ids) - tuned).abs().max().item()
        assert difference < 1e-3, f"claims mergeable, but the merged model's logits differ by {difference:.2e}"
        plain = set(dict(self.base(folder).named_parameters()))
        extra = set(dict(merged.named_parameters())) - plain
        assert not extra, f"the merged model is not a plain one: {sorted(extra)[:5]}"


class Switchable(TunerContract):
    """Claim `switchable`."""

    def test_disabled_answers_as_the_base(self, tuner: Any, folder: Path) -> None:
        model, _ = self.trained(tuner, folder)
        trains = {n: p.requires_grad for n, p in model.named_parameters()}
        base, tuned = logits(self.base(folder), self.ids), logits(model, self.ids)
        with tuner.disabled(model):
            difference = (logits(model, self.ids) - base).abs().max().item()
        assert difference < 1e-4, f"claims switchable, but switched off its logits differ from the base's by {difference:.2e}"
        assert torch.equal(logits(model, self.ids), tuned), "after `disabled` the tuned model answers otherwise than before"
        changed = sorted(n for n, p in model.named_parameters() if p.requires_grad != trains[n])
        assert not changed, f"after `disabled` another set of weights trains: {changed[:3]}"

    def test_disabled_does_not_spoil_gradients(self, tuner: Any, folder: Path) -> None:
        """A reference is asked before each forward pass, and the graph of the one before may still wait for its backward."""
        model, _ = self.trained(tuner, folder)
        model.eval()

        def gradients(pause: bool) -> dict[str, torch.Tensor]:
            model.zero_grad(set_to_none=True)
            loss = model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
            if pause:
                with tuner.disabled(model), torch.no_grad():
                    model(input_ids=self.ids, use_cache=False)
            loss.backward()
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

        plain, paused = gradients(False), gradients(True)
        differ = {n for n in plain.keys() & paused.keys() if not torch.equal(plain[n], paused[n])}
        wrong = sorted(differ | plain.keys() ^ paused.keys())
        assert not wrong, f"`disabled` between forward and backward changes the gradients of {wrong[:3]}"


class ModelContract(DescriptorContract):
    """A loader answers as transformers does; a catalog entry names what it is."""

    architecture = "qwen3"

    @pytest.fixture(scope="class")
    @classmethod
    def loader(cls, spec: Any) -> Any:
        if not spec.impl:
            pytest.skip("a catalog entry: its loader has its own contract")
        return load_object(spec.impl)()

    def request_for(self, folder: Path, **changes: Any) -> LoadRequest:
        return replace(LoadRequest(folder, PlainCpu(), dtype="float32"), **changes)

    def test_catalog_entry_is_complete(self, spec: Any, registry: Any) -> None:
        if spec.impl:
            pytest.skip("a loader")
        assert spec.hub_ids or spec.folder, "neither hub ids nor a folder"
        empty = [f for f in ("architecture", "context_length", "parameters") if not getattr(spec, f)]
        assert not empty, f"the entry does not say its {', '.join(empty)}"
        assert registry.find("model", spec.loader).spec.impl, f"loader {spec.loader!r} has no implementation"

    def test_what_ships_is_what_the_entry_says(self, spec: Any) -> None:
        if not spec.folder:
            pytest.skip("its weights do not ship with the plugin")
        config = AutoConfig.from_pretrained(package_path(spec.folder))
        assert spec.architecture in config.architectures, (
            f"architecture is {spec.architecture}, config.json has {config.architectures}"
        )
        positions = config.max_position_embeddings
        assert spec.context_length == positions, f"context_length is {spec.context_length}, config.json has {positions}"
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
        counted = sum(p.numel() for p in model.parameters())
        assert spec.parameters == counted, f"parameters is {spec.parameters}, config.json gives {counted}"
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        unknown = sorted(set(spec.linear_modules) - linear)
        assert not unknown, f"linear_modules names {unknown}, which are no linear layers of the model; it has {sorted(linear)}"

    def test_logits_equal_transformers(self, loader: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        loaded = loader.load(self.request_for(folder))
        ids = torch.arange(3, 23)[None]
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=loaded.attention)
        difference = (logits(loaded.model, ids) - logits(reference, ids)).abs().max().item()
        assert difference == 0, f"the logits differ from transformers' by {difference:.2e}"

    def test_tokens_equal_transformers(self, loader: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        tokenizers = {
            "load": loader.load(self.request_for(folder)).tokenizer, "load_tokenizer": loader.load_tokenizer(folder),
        }  # fmt: skip
        expected = AutoTokenizer.from_pretrained(folder)("abc<|im_end|>").input_ids
        for method, tokenizer in tokenizers.items():
            got = tokenizer("abc<|im_end|>").input_ids
            assert got == expected, f"the tokenizer of {method} gives {got}, transformers' own {expected}"

    def test_the_dtype_is_the_one_asked_for(self, loader: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        for name in ("float32", "bfloat16"):
            model = loader.load(self.request_for(folder, dtype=name)).model
            held = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
            assert held == {name}, f"dtype {name} was asked for, the weights are {sorted(held)}"

    def test_random_init_is_seeded_and_needs_no_weights(self, loader: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        for file in folder.glob("*.safetensors"):
            file.unlink()
        first, second, other = (loader.load(self.request_for(folder, init="random", seed=s)).model for s in (7, 7, 8))
        same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
        assert all(same), "init=random draws other weights for the same seed"
        same = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
        assert not all(same), "init=random draws the same weights for every seed"

    def test_a_folder_without_weights_is_refused(self, loader: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        for file in folder.glob("*.safetensors"):
            file.unlink()
        try:
            loader.load(self.request_for(folder))
        except ModelError:
            return
        except Exception as error:
            pytest.fail(f"a folder without weights raises {type(error).__name__}, not ModelError: {error}")
        pytest.fail("a folder without weights is loaded; the model is a random one")

    def test_documents_are_apart_where_claimed(self, loader: Any, tmp_path: Path) -> None:
        loaded = loader.load(self.request_for(tiny_folder(tmp_path, architecture=self.architecture)))
        if not loaded.keeps_documents_apart:
            pytest.skip("does not claim it")
        one, two = torch.arange(3, 20)[None], torch.arange(30, 40)[None]
        positions = torch.cat([torch.arange(one.shape[1]), torch.arange(two.shape[1])])[None]
        loaded.model.eval()
        with torch.no_grad():
            both = loaded.model(input_ids=torch.cat([one, two], 1), position_ids=positions, use_cache=False).logits
        difference = (both[:, one.shape[1] :] - logits(loaded.model, two)).abs().max().item()
        assert difference < 1e-4, f"claims keeps_documents_apart, but a neighbour changes the logits by {difference:.2e}"


class DatasetContract(DescriptorContract):
    """Rows that ship are readable, in a stable order; sample rows of a dataset kept elsewhere serve what the spec says."""

    def test_sample_rows_fit_columns_and_tasks(self, spec: Any, registry: Any) -> None:
        if not spec.sample:
            assert ships(spec.to_dict()), "its rows are on a hub: name a `sample` file, by which its columns can be checked"
            pytest.skip("no sample rows: the dataset itself is checked")
        wrong = datasets.faults(spec, registry)
        assert not wrong, "\n".join(wrong)

    def test_the_rows_serve_each_task(self, spec: Any, registry: Any) -> None:
        records = self.read(spec, registry).records
        served = [tasks.find(registry, name) for name in spec.tasks]
        lacking = [fault for task in served for record in records if (fault := lacks(record, task))]
        assert not lacking, f"{len(lacking)} rows do not serve: {lacking[0]}"

    def test_every_row_is_readable_and_stable(self, spec: Any, registry: Any) -> None:
        first, second = (self.read(spec, registry) for _ in range(2))
        assert not first.rejects, f"unreadable rows: {first.rejects[:3]}"
        moved = [n for n, (a, b) in enumerate(zip(first.records, second.records, strict=True)) if a != b]
        assert not moved, (
            f"the rows come in another order, or differ, when they are read again; the first is row {moved[0] + 1}"
        )

    def test_every_field_is_read(self, spec: Any, registry: Any) -> None:
        unused = sorted({column for guess in self.read(spec, registry).guesses for column in guess.schema.unused})
        assert not unused, (
            f"fields {unused} are unknown, and nothing reads them: map them in the spec's columns, or leave them out"
        )

    def test_the_number_of_rows_is_true(self, spec: Any, registry: Any) -> None:
        rows = len(self.read(spec, registry).records)
        assert spec.rows in (0, rows), f"the spec says {spec.rows} rows, there are {rows}"

    def read(self, spec: Any, registry: Any) -> Any:
        if not ships(spec.to_dict()):
            pytest.skip("kept on a hub: nothing is fetched in tests")
        answer = any(tasks.find(registry, name).answer for name in spec.tasks)
        return load_records([spec.name], registry=registry, columns={}, seed=0, max_bad_fraction=1.0, need_answer=answer)

    def test_source_and_licence_are_named(self, spec: Any) -> None:
        assert spec.source, "say where the data comes from"
        assert spec.licence or not ships(spec.to_dict()), "say under which licence the rows are that you ship"


class DeviceContract(DescriptorContract):
    """The probe is quick and honest; what is claimed can be done, where the hardware is there."""

    @pytest.fixture(scope="class")
    @classmethod
    def info(cls, spec: Any) -> Any:
        assert spec.probe, "a device needs a probe"
        try:
            return load_object(spec.probe)()
        except Exception as error:
            pytest.fail(f"the probe raises {type(error).__name__} ({error}); where the hardware is absent it returns None")

    def test_probe_never_raises_and_is_plausible(self, info: Any) -> None:
        assert info is None or info.count >= 1, f"the probe says {info.count} devices; it returns None where there is none"
        assert info is None or info.memory > 0, "the probe does not say how much memory there is"

    def test_probe_needs_no_torch(self, spec: Any, info: Any) -> None:
        module, function = spec.probe.split(":")
        heavy, fault = heavy_imports(module, f"{module}.{function}()")
        assert not fault, f"{spec.probe} fails in a process of its own: {fault}"
        assert not heavy, f"the probe imports {heavy}; `swift plan` and `swift list` call it"

    @pytest.fixture
    def device(self, spec: Any, settings: Any, info: Any) -> Iterator[Any]:
        if info is None:
            pytest.skip("this hardware is not on this machine")
        yield load_object(spec.impl)(settings, spec.name)

    def test_an_absent_device_is_refused(self, spec: Any, settings: Any, info: Any) -> None:
        if info is not None:
            pytest.skip("the hardware is there")
        try:
            load_object(spec.impl)(settings, spec.name).setup(0)
        except ModelError:
            return
        except Exception as error:
            pytest.fail(f"setup of an absent device raises {type(error).__name__}, not ModelError: {error}")
        pytest.fail("the probe finds no device, but setup gives one")

    def test_claimed_dtypes_train(self, device: Any) -> None:
        where = device.setup(0)
        for name in device.dtypes():
            try:
                layer = nn.Linear(8, 8, device=where, dtype=getattr(torch, name))
                layer(torch.ones(2, 8, device=where, dtype=getattr(torch, name))).sum().backward()
            except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
                pytest.fail(f"claims dtype {name}, which does not train here: {error}")
            assert layer.weight.grad is not None and torch.isfinite(layer.weight.grad).all(), (
                f"claims dtype {name}, which gives no finite gradient here"
            )

    def test_chosen_kernels_multiply_rightly(self, device: Any) -> None:
        """Against float64 on the CPU, in every dtype that trains, before and after a second choice."""
        where, draw = device.setup(0), torch.Generator().manual_seed(0)
        named = [getattr(torch, name, None) for name in device.dtypes()]
        dtypes = [
            dtype for dtype in named if dtype is not None and dtype.is_floating_point
        ]  # test_claimed_dtypes_train has those
        for _ in range(2):
            said = device.choose_kernels(set(dtypes))
            assert isinstance(said, str), f"choose_kernels returns {said!r}; a sentence or an empty string is asked for"
            for dtype in dtypes:
                a, b = (torch.randn(9, 9, generator=draw).to(dtype) for _ in range(2))
                exact = a.double() @ b.double()
                error = (torch.mm(a.to(where), b.to(where)).cpu().double() - exact).norm() / exact.norm()
                allowed = max(4 * torch.finfo(dtype).eps, 2e-3)  # tensor cores may take float32 for a shorter one
                assert error <= allowed, f"products in {dtype} are {error:.1e} off after choose_kernels"

    def test_spec_and_device_say_the_same(self, device: Any, spec: Any, info: Any) -> None:
        """The planner reads the facts, the run asks the device."""
        device.setup(0)
        facts = {**spec.facts, **info.facts}
        for fact, said in (("device.dtypes", device.dtypes()), ("device.attention", device.attention())):
            beyond = sorted(set(said) - set(facts.get(fact, ())))
            assert not beyond, f"the device offers {beyond}, which its fact {fact} does not name"
        slow = sorted(set(device.fast_dtypes()) - set(device.dtypes()))
        assert not slow, f"fast_dtypes names {slow}, which dtypes does not"

    def test_memory_is_plausible(self, device: Any) -> None:
        device.setup(0)
        memory = device.memory()
        assert 0 <= memory.used <= memory.total, f"{memory.used} bytes used of {memory.total}"
        assert memory.peak >= memory.used, f"the peak ({memory.peak} bytes) is below what is used ({memory.used} bytes)"

    def test_generators_can_be_restored(self, device: Any) -> None:
        where = device.setup(0)
        cpu, state = torch.get_rng_state(), device.rng_state()
        first = torch.rand(4, device=where)
        torch.set_rng_state(cpu)
        device.set_rng_state(state)
        again = torch.rand(4, device=where)
        assert torch.equal(first, again), (
            "rng_state and set_rng_state do not bring the generators back: a resume draws other numbers"
        )

    def test_collective_backend_is_one_of_the_facts(self, device: Any, spec: Any) -> None:
        backend, known = device.collective_backend(), spec.facts.get("device.collectives", ())
        assert backend in known, f"collective_backend is {backend!r}, the fact device.collectives says {known}"
