"""The contract kit catches mistakes: deliberately wrong plugins, each of which fails the tests that it must, by name.

`contract_plugins/` holds, for each kind, one right implementation and classes with one fault each. They are put into throw-away
distributions, and pytest is run over one `contract(...)` line for each, in a process of its own.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import make_dist

from swift.api import (
    SPECS,
    DatasetSpec,
    DeviceSpec,
    EngineSpec,
    ExporterSpec,
    HubSpec,
    LauncherSpec,
    ModelSpec,
    ObjectiveSpec,
    OptimizerSpec,
    ParallelSpec,
    QuantizerSpec,
    Spec,
    TrackerSpec,
    TunerSpec,
)  # fmt: skip
from swift.api.facts import FACTS
from swift.plugins import claims
from swift.testing import CLAIMS, CONTRACT_CLASSES, catalog, descriptor, engines, images, kinds, objectives, parallel, services

PLUGINS = Path(__file__).parent / "contract_plugins"
PACKAGE = "acme_kit"


@dataclass(frozen=True)
class Case:
    """A component, and the tests that it must fail: name -> words of the message."""

    spec: Spec
    fails: Mapping[str, str]

    @property
    def component(self) -> str:
        return f"{self.spec.kind}:{self.spec.name}"


def implementation(module: str, cls: str) -> dict[str, Any]:
    """Name, path and summary of a class in contract_plugins."""
    name = "".join("-" + c.lower() if c.isupper() else c for c in cls).lstrip("-")
    return {"name": f"kit-{name}", "impl": f"{PACKAGE}.{module}:{cls}", "summary": "a test"}


def tuner(cls: str, **fails: str) -> Case:
    claims = {"mergeable": True, "identity_at_init": True, "switchable": True, "trainable": "part"}
    return Case(TunerSpec(**implementation("tuners", cls), **claims), fails)


def loader(cls: str, **fails: str) -> Case:
    return Case(ModelSpec(**implementation("loaders", cls)), fails)


def counts(name: str, function: str, *, cls: str = "Sees", **fails: str) -> Case:
    """A loader whose plugin counts what images become, by a function of counters.py."""
    spec = ModelSpec(**{**implementation("loaders", cls), "name": name}, image_tokens=f"{PACKAGE}.counters:{function}")
    return Case(spec, fails)


def dataset(
    cls: str, *, name: str = "", rows: int = 6, licence: str = "Apache-2.0", tasks: tuple[str, ...] = ("sft",), **fails: str
) -> Case:
    values = {**implementation("datasets", cls), "rows": rows, "licence": licence, "tasks": tasks, "source": "made up"}
    return Case(DatasetSpec(**{**values, "name": name or values["name"]}), fails)


def kept_elsewhere(name: str, *, fault: str = "", **values: Any) -> Case:
    """A dataset on a hub, of which only the sample row in contract_plugins/samples.jsonl is at hand."""
    spec = {
        "summary": "a test",
        "hub_ids": {"huggingface": "acme/x"},
        "source": "made up",
        "sample": f"{PACKAGE}:samples.jsonl",
    }
    fails = {"test_sample_rows_fit_columns_and_tasks": fault} if fault else {}
    return Case(DatasetSpec(**{"name": name, **spec, **values}), fails)


def objective(cls: str, *, name: str = "", compares: bool = False, columns: tuple[str, ...] = (), **fails: str) -> Case:
    values = implementation("objectives", cls)
    own = {"columns": columns} if columns else {}
    return Case(ObjectiveSpec(**{**values, "name": name or values["name"]}, requires_reference=compares, **own), fails)


def strategy(
    cls: str, *, processes: int = 1, launcher: str = "kit-starter", name: str = "", shards: tuple[str, ...] = (), **fails: str
) -> Case:
    values = implementation("strategies", cls)
    several = {"multi_process": True, "launcher": launcher} if processes > 1 else {}
    return Case(ParallelSpec(**{**values, "name": name or values["name"]}, shards=shards, **several), fails)


def apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of a spec, and the tests that must fail."""
    fails = {key: value for key, value in values.items() if key.startswith("test_")}
    return {key: value for key, value in values.items() if key not in fails}, fails


def quantizer(name: str, **values: Any) -> Case:
    own, fails = apart(values)
    return Case(QuantizerSpec(name=name, impl=f"{PACKAGE}.quantizers:half", summary="a test", bits=(16,), **own), fails)


def shipped(name: str, **changes: Any) -> Case:
    """A catalog entry whose config.json lies in the package."""
    own, fails = apart(changes)
    true = {
        "architecture": "LlamaForCausalLM",
        "context_length": 64,
        "parameters": 2864,
        "linear_modules": ("q_proj", "up_proj"),
    }
    return Case(
        ModelSpec(**{"name": name, "summary": "a test", "loader": "kit-right", "folder": f"{PACKAGE}:.", **true, **own}), fails
    )


def device(cls: str, *, probe: str = "present", name: str = "", **fails: str) -> Case:
    values = implementation("devices", cls)
    facts = {"device.collectives": ("gloo",), "device.dtypes": ("float32", "bfloat16", "int8"), "device.attention": ("sdpa",)}
    return Case(DeviceSpec(**{**values, "name": name or values["name"]}, probe=f"{PACKAGE}.probes:{probe}", facts=facts), fails)


def engine(cls: str, *, adapters: bool = False, **fails: str) -> Case:
    return Case(EngineSpec(**implementation("engines", cls), streaming=True, multi_adapter=adapters), fails)


def service(spec: type[Spec], cls: str, *, name: str = "", **values: Any) -> Case:
    """`values` that are tests are what must fail, the others fields of the spec."""
    own, fails = apart(values)
    given = implementation("services", cls)
    return Case(spec(**{**given, "name": name or f"{given['name']}-{spec.kind}"}, **own), fails)


ENTRY = {"summary": "a test", "loader": "kit-right", "hub_ids": {"huggingface": "acme/x"}}

# Each group costs a process that imports torch and transformers, a few seconds: no smaller than that xdist can balance them.
CASES = {
    "tuner": [
        tuner("Right"),
        tuner("TrainsFrozen", test_a_step_changes_only_what_is_declared="hands frozen weights to the optimizer"),
        tuner("ChangesFrozen",
              test_a_step_changes_only_what_is_declared="a step changed frozen weights",
              test_restore_is_exact="something else was changed"),
        tuner("ForgetsParameters", test_a_step_changes_only_what_is_declared="parameter_groups forgets trainable weights"),
        tuner("TrainsNothing",
              test_something_is_trained="sets requires_grad on nothing",
              test_a_step_changes_only_what_is_declared="", test_loss_falls="", test_restore_is_exact="",
              test_disabled_answers_as_the_base="", test_disabled_does_not_spoil_gradients="",
              test_saved_result_answers_as_the_trained_model="", test_merge_equals_the_tuned_model=""),
        Case(TunerSpec(**{**implementation("tuners", "Right"), "name": "kit-boaster"}, trainable="all"),
             {"test_as_much_is_trained_as_the_spec_says": "trainable is 'all', and"}),
        tuner("ClimbsUp", test_loss_falls="the loss did not fall in 20 steps"),
        tuner("DoesNotRestore", test_restore_is_exact="differs after save and restore"),
        tuner("IgnoresSeed",
              test_the_seed_alone_decides="differs between two calls of apply with the same seed",
              test_identity_at_init="claims identity_at_init"),
        tuner("LoadsAnother", test_saved_result_answers_as_the_trained_model="the saved result differs from the trained model"),
        tuner("StaysOn", test_disabled_answers_as_the_base="claims switchable, but switched off its logits differ"),
        tuner("StaysOff", test_disabled_answers_as_the_base="otherwise than before"),
        tuner("FreezesForGood", test_disabled_answers_as_the_base="another set of weights trains",
              test_disabled_does_not_spoil_gradients="changes the gradients"),
        tuner("CannotSwitch", test_disabled_answers_as_the_base="cannot be switched off",
              test_disabled_does_not_spoil_gradients=""),
        tuner("MergesHalf", test_merge_equals_the_tuned_model="claims mergeable, but the merged model's logits differ"),
        tuner("StaysWrapped", test_merge_equals_the_tuned_model="the merged model is not a plain one"),
        tuner("CannotMerge", test_merge_equals_the_tuned_model="cannot be merged"),
        tuner("StartsElsewhere", test_identity_at_init="claims identity_at_init, but the logits differ"),
    ],
    "model, objective, quantizer": [
        loader("Right"),
        loader("DrawsAnew", test_random_init_is_seeded_and_needs_no_weights="other weights for the same seed"),
        loader("IgnoresSeed", test_random_init_is_seeded_and_needs_no_weights="the same weights for every seed"),
        loader("NeedsNoWeights", test_a_folder_without_weights_is_refused="a folder without weights is loaded"),
        loader("RaisesOther", test_a_folder_without_weights_is_refused="raises KeyError, not ModelError"),
        loader("MixesDocuments", test_documents_are_apart_where_claimed="claims keeps_documents_apart, but"),
        loader("RoundsWeights", test_logits_equal_transformers="the logits differ from transformers'"),
        loader("IgnoresDtype", test_the_dtype_is_the_one_asked_for="dtype bfloat16 was asked for"),
        loader("OtherTokenizer", test_tokens_equal_transformers="transformers' own"),
        Case(ModelSpec(name="kit-entry", architecture="X", context_length=8, parameters=8, **ENTRY), {}),
        Case(ModelSpec(name="kit-half", architecture="X", context_length=8, **ENTRY),
             {"test_catalog_entry_is_complete": "does not say its parameters"}),
        Case(ModelSpec(name="kit-nowhere", architecture="X", context_length=8, parameters=8, **{**ENTRY, "hub_ids": {}}),
             {"test_catalog_entry_is_complete": "neither hub ids nor a folder"}),
        shipped("kit-shipped"),
        shipped("kit-shrunk", parameters=4, test_what_ships_is_what_the_entry_says="parameters is 4, config.json gives 2864"),
        shipped("kit-stretched", context_length=4, test_what_ships_is_what_the_entry_says="context_length is 4, config"),
        shipped("kit-renamed", architecture="X", test_what_ships_is_what_the_entry_says="architecture is X"),
        shipped("kit-layers", linear_modules=("c_attn",), test_what_ships_is_what_the_entry_says="names ['c_attn']"),
        Case(ModelSpec(**{**implementation("loaders", "Right"), "name": "kit-sees"}, modality=("text", "image")),
             {"test_the_claim_has_a_test": "model:kit-sees claims modality 'image', and this version's contract kit has no"}),
        counts("kit-counts", "right"),
        counts("kit-counts-one-size", "right", cls="SeesOneSize"),
        counts("kit-counts-heavy", "heavy", test_image_tokens_need_no_torch="image_tokens imports ['torch'"),
        counts("kit-counts-more", "one_more",
               test_image_tokens_are_those_of_the_processor="says 2 for an image of 28 x 28 pixels"),
        counts("kit-counts-unbounded", "unbounded",
               test_image_tokens_are_those_of_the_processor="28 x 28 pixels with {'min_pixels': 20000, 'max"),
        counts("kit-counts-thin", "counts_thin_ones",
               test_image_tokens_are_those_of_the_processor="says 1 for an image of 1 x 201 pixels, the processor makes 0"),
        counts("kit-counts-never", "never", test_image_tokens_are_those_of_the_processor="gives None for a folder",
               test_image_tokens_need_no_torch="fails in a process of its own"),
        counts("kit-counts-always", "always", test_no_image_tokens_are_guessed="None is asked for"),
        counts("kit-counts-raises", "needs_files", test_no_image_tokens_are_guessed="image_tokens raises FileNotFoundError"),
        counts("kit-counts-blind", "right", cls="Right", **dict.fromkeys(
            ("test_image_tokens_need_no_torch", "test_image_tokens_are_those_of_the_processor"),
            "load_processor returns None; name a function")),
        quantizer("kit-half"),
        quantizer("kit-half-trainable", trainable=True,
                  test_the_claim_has_a_test="kit-half-trainable claims trainable, and this version's contract kit has no test"),
        quantizer("kit-half-fact", facts={"quant.trainable": True, "quant.bits": 16},
                  test_facts_say_what_the_fields_say="fact quant.trainable is True, the field trainable says False"),
        objective("Right"),
        objective("Right", name="kit-silent", columns=("label",),
                  test_the_columns_are_enough="encode needs more of a row than the spec's columns ('label',): DataError"),
        objective("Mean",
                  test_loss_is_a_sum_over_rows="the sum of their losses",
                  test_weights_of_labels_count="loss_weight of the batch"),
        objective("NoGradient", test_nothing_labelled_is_zero_with_a_gradient="the loss of no label has no gradient"),
        objective("NotZero", test_nothing_labelled_is_zero_with_a_gradient="the loss of no label is 0.5"),
        objective("DependsOnBudget", test_memory_budget_does_not_change_the_loss="the loss depends on the memory budget"),
        objective("IgnoresWeights", test_weights_of_labels_count="loss_weight of the batch"),
        objective("ShortWeights", test_examples_are_well_formed="loss_weight",
                  test_loss_is_a_sum_over_rows="", test_memory_budget_does_not_change_the_loss="",
                  test_weights_of_labels_count="",
                  test_what_is_counted_is_a_sum_over_rows=""),
        objective("TrainsOnNothing", test_examples_are_well_formed="nothing is trained on",
                  test_what_is_counted_is_a_sum_over_rows="nothing is counted"),
        objective("CountsPadding", test_what_is_counted_is_a_sum_over_rows="is counted in 3 padded rows"),
        objective("CountsFiller", test_what_is_counted_is_a_sum_over_rows="whose labels are all masked"),
        objective("JoinsDocuments", test_loss_is_a_sum_over_rows="the loss of 3 padding_free rows"),
        objective("Pairs"),
        objective("Compares", compares=True),
        objective("AsksUnannounced", test_a_reference_is_announced="is never called"),
        objective("LosesSegments", test_examples_are_well_formed="the segments hold", test_loss_is_a_sum_over_rows=""),
    ],
    "engine": [
        engine("Right", adapters=True),
        engine("LosesStop", test_stop_strings_end_the_answer="with stop string"),
        engine("LeaksStop", test_stop_strings_do_not_leak="with stop string"),
        engine("StreamsAnother", test_pieces_join_to_the_whole="the streamed pieces join to"),
        engine("PadsWithoutMask", test_a_batch_answers_as_one_by_one="in a batch the answer to request"),
        engine("AnyAdapter", test_an_unknown_adapter_is_refused="adapter 'nobody', which is not loaded"),
        engine("IgnoresLength", test_length_is_kept_and_said="5 new tokens were asked for"),
        engine("WrongReason", test_length_is_kept_and_said="the answer was cut off"),
        engine("IgnoresSampling", test_no_option_is_ignored="is ignored"),
        engine("IgnoresSeed", test_no_option_is_ignored="seed is ignored"),
        engine("OtherDecoding", test_greedy_equals_the_reference="transformers' own"),
        engine("CountsWrong", test_greedy_equals_the_reference="prompt_tokens is"),
        engine("OneForAll", adapters=True,
               test_each_request_is_answered_by_its_adapter="a request for the model without an adapter"),
        engine("HalfScale", adapters=True,
               test_each_request_is_answered_by_its_adapter="a request for adapter 'one' is answered with"),
    ],
    "device, dataset, and those around a run": [
        device("Right"),
        device("Absent", probe="absent"),
        device("Right", name="kit-made-up", probe="absent", test_an_absent_device_is_refused="but setup gives one"),
        device("CrashesWhenAbsent", probe="absent", test_an_absent_device_is_refused="raises RuntimeError, not ModelError"),
        device("LiesAboutDtypes", test_claimed_dtypes_train="claims dtype int8, which does not train"),
        device("SaysMoreThanItsSpec", test_spec_and_device_say_the_same="offers ['float64'], which its fact device.dtypes"),
        device("NoTotal", test_memory_is_plausible="bytes used of"),
        device("LosesGenerators", test_generators_can_be_restored="do not bring the generators back"),
        device("SaysNothingOfKernels", test_chosen_kernels_multiply_rightly="choose_kernels returns None"),
        device("ChoosesBadKernels", test_chosen_kernels_multiply_rightly="off after choose_kernels"),
        device("OtherBackend", test_collective_backend_is_one_of_the_facts="collective_backend is 'nccl'"),
        device("Right", name="kit-none", probe="nothing_there", test_probe_never_raises_and_is_plausible="says 0 devices"),
        device("Right", name="kit-heavy", probe="heavy", test_probe_needs_no_torch="the probe imports ['torch'"),
        device("Right", name="kit-raises", probe="raises", **dict.fromkeys(
            (name for name in vars(kinds.DeviceContract) if name.startswith("test_")), "the probe raises OSError")),
        dataset("Right"),
        dataset("UnknownField", test_every_field_is_read="fields ['mood'] are unknown"),
        dataset("UnreadableRow", test_every_row_is_readable_and_stable="unreadable rows"),
        dataset("OtherOrder", test_every_row_is_readable_and_stable="in another order"),
        dataset("Right", name="kit-miscounted", rows=7, test_the_number_of_rows_is_true="says 7 rows, there are 6"),
        dataset("Right", name="kit-other-task", tasks=("vqa",), test_the_rows_serve_each_task="task vqa needs images"),
        dataset("Right", name="kit-unlicensed", licence="", test_source_and_licence_are_named="under which licence"),
        kept_elsewhere("kit-elsewhere", columns={"frage": "query", "antwort": "response"}, tasks=("qa",)),
        kept_elsewhere("kit-rewritten", rewrite={"query": "{frage}", "response": "{antwort}", "images": "{bild}"},
                       tasks=("vqa",)),
        kept_elsewhere("kit-unmapped", fault="the sample row does not fit"),
        kept_elsewhere("kit-misnamed", columns={"question": "query"}, fault="maps question, which the sample row has not"),
        kept_elsewhere("kit-not-seen", columns={"frage": "query", "antwort": "response"}, tasks=("vqa",), fault="needs images"),
        kept_elsewhere("kit-no-task", columns={"frage": "query", "antwort": "response"}, tasks=("qaa",), fault="no task 'qaa'"),
        kept_elsewhere("kit-no-row", fault="holds no row of kit-no-row"),
        kept_elsewhere("kit-no-sample", sample="", fault="name a `sample` file"),
        service(HubSpec, "Folders", prefix="kit"),
        service(HubSpec, "Folders", name="kit-double", prefix="kit2",
                test_the_prefix_is_its_own="the prefix kit2:: is also that of acme-kit"),
        service(HubSpec, "Folders", name="kit-double-2", prefix="kit2", test_the_prefix_is_its_own="also that of"),
        service(HubSpec, "GivesAnything", test_what_is_not_there_is_refused="an unknown model gives /nowhere",
                test_an_id_that_leads_elsewhere_is_refused="", test_the_token_stands_in_no_message=""),
        service(HubSpec, "GivesOutside", test_an_id_that_leads_elsewhere_is_refused="the id '../../etc' gives"),
        service(HubSpec, "RaisesOther", test_what_is_not_there_is_refused="raises OSError, not ModelError",
                test_an_id_that_leads_elsewhere_is_refused="", test_the_token_stands_in_no_message=""),
        service(HubSpec, "TellsToken", test_the_token_stands_in_no_message="the access token stands in an error message"),
        service(TrackerSpec, "Lines"),
        service(TrackerSpec, "StartsAnew", test_a_resumed_run_keeps_what_was_logged="shortens or removes ['kit.jsonl']"),
        service(TrackerSpec, "WritesHere", test_a_run_is_logged_inside_its_directory="['kit.jsonl'] were written outside"),
        service(TrackerSpec, "StopsAtNan", test_no_value_ends_the_run="logging nan raises ValueError"),
        service(ExporterSpec, "Weights"),
        service(ExporterSpec, "NamesOthers", test_the_files_are_there="the report names ['weights.gguf']"),
        service(ExporterSpec, "ChangesSource", test_the_source_stays_as_it_is="config.json of the source was changed"),
        service(ExporterSpec, "WritesBeside", test_the_source_stays_as_it_is="['copy.pt'] were written beside"),
        service(ExporterSpec, "ProvesNothing", test_the_result_is_proved="nothing was measured"),
        service(ExporterSpec, "LeavesAdapter", test_an_adapter_is_folded_in_once="merge was called 0 times"),
        service(OptimizerSpec, "Momentum", state_bytes_per_parameter=4.0),
        service(OptimizerSpec, "Momentum", name="kit-boaster", state_bytes_per_parameter=0.0,
                test_state_is_as_large_as_the_spec_says="and fixed_state False, so 0 for float32; the state takes 4.00 bytes"),
        service(OptimizerSpec, "OneGroup", state_bytes_per_parameter=4.0,
                test_groups_keep_their_learning_rates="group 1 was given lr 0.001"),
        service(OptimizerSpec, "NoDecay", state_bytes_per_parameter=4.0,
                test_groups_keep_their_learning_rates="group 0 was given weight_decay 0.1"),
        service(OptimizerSpec, "IgnoresSchedule", state_bytes_per_parameter=4.0,
                test_the_learning_rate_of_the_moment_counts="a schedule would be ignored"),
        service(OptimizerSpec, "ClimbsUp", state_bytes_per_parameter=4.0, test_loss_falls="did not fall in 50 steps"),
        service(OptimizerSpec, "LosesState", state_bytes_per_parameter=4.0, test_state_comes_back="goes another way"),
        service(LauncherSpec, "Processes"),
        service(LauncherSpec, "OneRank", test_every_rank_runs_and_knows_its_place="ranks ['0'] ran",
                test_a_failing_rank_ends_the_run_with_its_code=""),
        service(LauncherSpec, "SamePlace", test_every_rank_runs_and_knows_its_place="LOCAL_RANK is ['0', '0']"),
        service(LauncherSpec, "NoPort", test_every_rank_runs_and_knows_its_place="one port above 0"),
        service(LauncherSpec, "ForgetsEnv", test_every_rank_runs_and_knows_its_place="do not reach the workers"),
        service(LauncherSpec, "AlwaysWell", test_a_failing_rank_ends_the_run_with_its_code="ended with 7, launch returns 0"),
    ],
    "parallel, one process and two": [
        strategy("LosesState", test_optimizer_state_comes_back="exp_avg_sq of parameter 0"),
        strategy("Alone"),
        strategy("DoesNotClip", test_trajectory_equals_plain_pytorch="losses of step 2",
                 test_weights_equal_plain_pytorch="weights differ from plain PyTorch's"),
        strategy("RenamesWeights", test_names_are_those_of_the_module="unwrapped gives parameters"),
        strategy("Right", processes=2),
        strategy("ForgetsToReduce", processes=2, test_trajectory_equals_plain_pytorch="plain PyTorch has",
                 test_weights_equal_plain_pytorch="weights differ from plain PyTorch's",
                 test_optimizer_state_comes_back="exp_avg of parameter 0"),  # that of rank 1 is another
        strategy("Averages", processes=2, test_trajectory_equals_plain_pytorch="norms of step 0",
                 test_weights_equal_plain_pytorch="weights differ from plain PyTorch's"),
    ],
    "parallel, two processes": [
        strategy("Deals", processes=2, shards=("gradients", "optimizer")),
        strategy("Right", name="kit-whole", processes=2, shards=("weights", "optimizer"),
                 test_each_rank_holds_a_share="claims to shard weights, but rank 0 of 2 holds 129 of 129 numbers"),
        strategy("Deals", name="kit-splits", processes=2, shards=("optimizer", "activations"),
                 test_the_claim_has_a_test="claims shards 'activations', and this version's contract kit has no test for it"),
        strategy("KeepsToItself", processes=2, launcher="kit-nobody", test_objects_travel="broadcast gives 'wrong' on rank 1",
                 test_a_launcher_is_named="kit-nobody"),
    ],
}  # fmt: skip
STARTER = LauncherSpec(**implementation("strategies", "Starter"))


@dataclass(frozen=True)
class Outcome:
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    passed: frozenset[str]


def install(site: Path, specs: Iterable[Spec]) -> None:
    """One distribution that offers all of `specs`."""
    by_kind = defaultdict(list)
    for spec in specs:
        by_kind[spec.kind].append(spec)
    hooks = [
        f"@hookimpl\ndef swift_{kind}s():\n    return [{', '.join(map(repr, found))}]\n\n" for kind, found in by_kind.items()
    ]
    door = "from swift.api import *\nfrom swift.api import hookimpl\n\n" + "".join(hooks)
    data = (PLUGINS / "samples.jsonl", PLUGINS / "config.json")
    files = {file.name: file.read_text(encoding="utf-8") for file in (*PLUGINS.glob("*.py"), *data)}
    make_dist(site, door, dist="acme-kit", plugin="kit", package=PACKAGE, files=files)


def run_contracts(folder: Path, components: Iterable[str], *, head: str = "") -> dict[str, Outcome]:
    """pytest over one contract for each component, in a process of its own: component, or class of `head`, to outcome."""
    names = {f"Test_{component.replace(':', '_').replace('-', '_')}": component for component in components}
    lines = [f"{name} = contract({component!r})" for name, component in names.items()]
    file = folder / "test_contracts.py"
    file.write_text("\n".join(["from swift.testing import contract", head, *lines, ""]), encoding="utf-8")
    own = {
        "PYTHONPATH": str(folder / "site"), "SWIFT_HOME": str(folder / "home"), "SWIFT_CONFIG": str(folder / "home/config"),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "SWIFT_"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=line",
        "--junitxml=out.xml",
        "--rootdir=.",
        file.name,
    ]
    done = subprocess.run(command, cwd=folder, env={**kept, **own}, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-2000:]
    failed, skipped, passed = defaultdict(dict), defaultdict(dict), defaultdict(set)
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        owner = case.attrib["classname"].rpartition(".")[2]
        owner, test = names.get(owner, owner), case.attrib["name"].partition("[")[0]
        fault = next((f for f in case if f.tag in ("failure", "error")), None)
        if fault is not None:
            failed[owner][test] = failed[owner].get(test, "") + fault.attrib.get("message", "")
        elif (skip := case.find("skipped")) is not None:
            skipped[owner][test] = skip.attrib.get("message", "")
        else:
            passed[owner].add(test)
    owners = {*failed, *skipped, *passed}
    return {owner: Outcome(failed[owner], skipped[owner], frozenset(passed[owner])) for owner in owners}


def differences(expected: Mapping[str, Mapping[str, str]], outcomes: Mapping[str, Outcome]) -> list[str]:
    """What is not as expected, a line each."""
    lines = []
    for name, fails in expected.items():
        failed = outcomes[name].failed
        lines += [f"{name}: {test} should fail, and does not" for test in fails if test not in failed]
        lines += [
            f"{name}: {test} should pass, and says {message[:300]!r}" for test, message in failed.items() if test not in fails
        ]
        lines += [
            f"{name}: {test} does not say {words!r}, but {failed[test][:300]!r}"
            for test, words in fails.items()
            if test in failed and words not in failed[test]
        ]
    return lines


@pytest.mark.parametrize("group", CASES)
def test_every_wrong_plugin_is_caught_by_name(group: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", [*(case.spec for case in CASES[group]), STARTER])
    outcomes = run_contracts(tmp_path, [case.component for case in CASES[group]])
    wrong = differences({case.component: case.fails for case in CASES[group]}, outcomes)
    assert not wrong, "\n".join(wrong)


# ----------------------------------------------------------------------------------------- every component: the descriptor

TEMPLATE = """
from swift.api import TemplateSpec, hookimpl

@hookimpl
def swift_templates():
    return [TemplateSpec(name="{name}", file="{package}:x.jinja", summary="a test")]
"""
WITH_SETTINGS = TEMPLATE.replace("summary=", "settings='{package}.settings:Own', summary=")
TRACKER = TEMPLATE.replace("TemplateSpec", "TrackerSpec").replace("swift_templates", "swift_trackers").replace(
    'file="{package}:x.jinja", summary=', "impl='{package}.impl:Own', summary="
)  # fmt: skip
NEEDS = TEMPLATE.replace("summary=", "needs=(Need('quant.bitz == 4', 'four'),), summary=").replace(
    "import ", "import Need, ", 1
)
DECLARES = TEMPLATE.replace(
    "summary=", "declares=(Fact('acme.tiles', 'int', 'tiles of a block'),), needs=(Need('acme.tiles >= 2', 'two'),), summary="
).replace("import ", "import Fact, Need, ", 1)
STRICT = "from swift.api.settings import Settings\n\nclass Own(Settings):\n"

TRACKS = "from swift.api import Tracker\n\nclass Own(Tracker):\n"

ALL_OF_TRACKERS = dict.fromkeys((name for name in vars(services.TrackerContract) if name.startswith("test_")), "")

DESCRIPTORS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "template:good": (TEMPLATE, {}, {}),
    "template:set-up": (WITH_SETTINGS, {"settings.py": STRICT + "    size: int = 3\n    '''How large.'''\n"}, {}),
    "tracker:good": (TRACKER, {"impl.py": TRACKS + "    def log(self, step, metrics): ...\n"}, {}),
    "template:heavy": ("import torch\n" + TEMPLATE, {}, {"test_the_door_imports_nothing_heavy": "imports ['torch'"}),
    "template:silent": (TEMPLATE.replace('"a test"', '""'), {}, {"test_name_and_summary": "has no summary"}),
    "template:listed": (TEMPLATE.replace("summary=", "facts={'device.dtypes': ['float32']}, summary="), {},
                      {"test_spec_survives_json": "['facts'] change on their way through JSON"}),
    "template:unknown-fact": (TEMPLATE.replace("summary=", "facts={'device.dtype': ('float32',)}, summary="), {},
                            {"test_facts_are_known": "fact device.dtype is unknown; did you mean device.dtypes"}),
    "template:undeclared": (TEMPLATE.replace("summary=", "facts={'acme.colour': 'red'}, summary="), {},
                            {"test_facts_are_known": "fact acme.colour is unknown; `swift list facts` shows all"}),
    "template:mistyped-fact": (TEMPLATE.replace("summary=", "facts={'device.count': 'two'}, summary="), {},
                               {"test_facts_are_known": "fact device.count is 'two'; its type is int"}),
    "template:foreign-claim": (TEMPLATE.replace("summary=", "facts={'quant.trainable': True}, summary="), {},
                               {"test_facts_say_what_the_fields_say":
                                "fact quant.trainable is a claim of a quantizer, which a template cannot make"}),
    "template:declared": (DECLARES, {}, {}),
    "template:foreign-prefix": (DECLARES.replace("acme.tiles", "device.tiles"), {},
                                {"test_facts_are_known": "device.* are Swift's own"}),
    "template:unknown-need": (NEEDS, {},
                              {"test_needs_and_clashes_are_over_known_facts": "did you mean quant.bits"}),
    "template:mistyped-need": (NEEDS.replace("quant.bitz == 4", "quant.bits == four"), {},
                               {"test_needs_and_clashes_are_over_known_facts":
                                "'quant.bits == four' would never be met: quant.bits is of type int"}),
    "template:private": (TEMPLATE, {"impl.py": "from swift.plan.plan import Plan\n"},
                       {"test_only_the_public_api_is_imported": "impl.py: swift.plan.plan"}),
    "template:sideways": (TEMPLATE, {"impl.py": "from swift import plan\n"},
                        {"test_only_the_public_api_is_imported": "impl.py: swift.plan"}),
    "template:demanding": (WITH_SETTINGS, {"settings.py": STRICT + "    size: int\n    '''How large.'''\n"},
                         {"test_settings_are_strict_and_defaulted": "['size'] have no default"}),
    "template:undocumented": (WITH_SETTINGS, {"settings.py": STRICT + "    size: int = 3\n"},
                            {"test_settings_are_strict_and_defaulted": "['size'] have no docstring"}),
    "template:lax": (WITH_SETTINGS, {"settings.py": "from pydantic import BaseModel\n\nclass Own(BaseModel):\n    pass\n"},
                   {"test_settings_are_strict_and_defaulted": "must forbid unknown keys"}),
    "tracker:stranger": (TRACKER, {"impl.py": "class Own: ...\n"},
                         {"test_implementation_fulfils_the_contract": "is not a Tracker", **ALL_OF_TRACKERS}),
    "tracker:half": (TRACKER, {"impl.py": TRACKS + "    pass\n"},
                     {"test_implementation_fulfils_the_contract": "does not define ['log']", **ALL_OF_TRACKERS}),
}  # fmt: skip

CATALOG = """
from dataclasses import dataclass
from transformers import Qwen3Config
from swift.api import ModelSpec
from swift.testing.catalog import CatalogContract, parameters

SHAPE = Qwen3Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                    head_dim=16, vocab_size=64)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

def catalog(*, name="mini-1", parameters=parameters(SHAPE), linear=LINEAR, summary="a test", twin=False):
    first = ModelSpec(name=name, aliases=("mini",), summary=summary, loader="any", hub_ids={"huggingface": "acme/mini-1"},
                      architecture="Qwen3ForCausalLM", parameters=parameters, context_length=64, linear_modules=linear)
    return [first, ModelSpec(**{**first.to_dict(), "aliases": ()})] if twin else [first]

class Base(CatalogContract):
    shapes, patterns = {"1": SHAPE}, {"1": r"mini.*"}

class TestRight(Base): models = catalog()
class TestMiscounted(Base): models = catalog(parameters=1234)
class TestIllegal(Base): models = catalog(name="mini/1")
class TestTwice(Base): models = catalog(twin=True)
class TestSilent(Base): models = catalog(summary="")
class TestOtherLayers(Base): models = catalog(linear=("q_proj", "c_attn"))
"""
CATALOGS = {
    "TestRight": {},
    "TestMiscounted": {"test_parameters_are_those_of_the_published_shape": "mini-1: 1234, its shape has"},
    "TestIllegal": {"test_names_and_ids_are_legal_and_unique": "'mini/1'"},
    "TestTwice": {"test_names_and_ids_are_legal_and_unique": "stands twice"},
    "TestSilent": {"test_every_entry_is_complete_and_pure_data": "mini-1 lacks its summary"},
    "TestOtherLayers": {"test_linear_modules_are_those_of_the_architecture": "differ from the model's own in ['c_attn',"},
}


@pytest.mark.parametrize("part", [0, 1])
def test_every_wrong_descriptor_is_caught_by_name(part: int, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    chosen = dict(list(DESCRIPTORS.items())[part::2])
    for number, (component, (door, files, _)) in enumerate(chosen.items()):
        dist, name = component.replace(":", "-"), component.partition(":")[2]
        package = f"acme_door_{number}"
        files = {path: text.replace("{package}", package) for path, text in files.items()}
        make_dist(tmp_path / "site", door, dist=f"acme-{dist}", plugin=dist, name=name, package=package, files=files)
    outcomes = run_contracts(tmp_path, chosen)
    wrong = differences({component: fails for component, (_, _, fails) in chosen.items()}, outcomes)
    assert not wrong, "\n".join(wrong)


def test_every_wrong_catalog_is_caught_by_name(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    wrong = differences(CATALOGS, run_contracts(tmp_path, (), head=CATALOG))
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------ the kit as a whole


def names_of_tests(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test_")}


def written_tests() -> set[str]:
    classes = (*CONTRACT_CLASSES.values(), *CLAIMS.values(), catalog.CatalogContract, descriptor.Untried)
    return set().union(*map(names_of_tests, classes))


def test_every_test_of_the_kit_is_failed_by_a_wrong_plugin() -> None:
    """A test that nothing fails proves nothing."""
    written = written_tests()
    cases = [case.fails for group in CASES.values() for case in group]
    named = [*cases, *(fails for _, _, fails in DESCRIPTORS.values()), *CATALOGS.values()]
    caught = {test for fails in named for test, words in fails.items() if words}
    assert written - caught == set()
    assert caught - written == set(), "renamed or removed"


def test_the_reference_names_every_test() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins" / "contract-kit.md").read_text(encoding="utf-8")
    written = written_tests()
    assert set(re.findall(r"`(test_\w+)`", page)) == written


def test_every_field_of_every_spec_is_accounted_for() -> None:
    """A new field is proved, a description, or a claim that fails; who adds one says which, in swift.plugins.claims."""
    base = {("*", f.name) for f in fields(Spec)}
    own = {(spec.kind, f.name) for spec in SPECS for f in fields(spec) if ("*", f.name) not in base}
    stand = [*claims.PROVED, *claims.DESCRIPTIONS, *(claims.UNTRIED.keys() - claims.PROVED.keys())]
    assert sorted(base | own) == sorted(stand)
    assert all(why for why in claims.DESCRIPTIONS.values())
    assert all(rule.values and rule.why and rule.instead for rule in claims.UNTRIED.values())


def test_of_values_that_say_more_than_is_proved_the_proved_part_is_shown() -> None:
    for (kind, field), values in claims.PROVED_OF.items():
        [spec] = [spec for spec in SPECS if spec.kind == kind]
        assert (kind, field) in claims.PROVED and set(values) < set(get_args(get_type_hints(spec)[field]))
    shown = [
        {
            claim
            for claim, _ in claims.claimed(TunerSpec(name="t", impl="a:b", summary="s", trainable=how))
            if "trainable" in claim
        }
        for how in ("all", "low-rank", "part")
    ]
    assert shown == [{"trainable = all"}, {"trainable is not all"}, {"trainable is not all"}]


def test_every_fact_is_accounted_for() -> None:
    assert sorted(FACTS) == sorted([*claims.FACTS_PROVED, *claims.FACTS_DESCRIBED, *claims.FIELDS_OF_FACTS])
    for claim in claims.FIELDS_OF_FACTS.values():
        assert claim in claims.PROVED or claim in claims.UNTRIED, claim
    assert set(claims.FACTS_PROVED.values()) <= names_of_tests(kinds.DeviceContract)


@pytest.mark.parametrize("claim", claims.PROVED, ids="-".join)
def test_what_is_said_to_prove_a_claim_runs_for_it(claim: tuple[str, str]) -> None:
    kind = claim[0]
    suites = (*CONTRACT_CLASSES.values(), descriptor.DescriptorContract) if kind == "*" else (CONTRACT_CLASSES[kind],)
    brought = CLAIMS.get(claim) or CLAIMS.get((kind, "multi_process"), suites[-1])
    for test in claims.PROVED[claim]:
        assert all(test in names_of_tests(suite) for suite in suites) or test in names_of_tests(brought), test


def test_every_claim_class_brings_tests() -> None:
    assert CLAIMS.keys() <= claims.PROVED.keys()
    for claim, cls in CLAIMS.items():
        assert names_of_tests(cls) - names_of_tests(CONTRACT_CLASSES[claim[0]]) or cls.world_size > 1, f"{claim} brings no test"


SKIPS = {
    "pure data: the spec names no implementation", "no settings", "a catalog entry: its loader has its own contract",
    "a loader", "does not claim it", "this hardware is not on this machine", "the hardware is there",
    "a loss over documents, not labels", "no sample rows: the dataset itself is checked",
    "kept on a hub: nothing is fetched in tests", "its weights do not ship with the plugin",
}  # fmt: skip
"""Why a test may be skipped: the spec does not claim it, or the device is (not) there. Never because a test found it hard."""


def test_a_test_is_skipped_only_where_nothing_is_claimed() -> None:
    reasons = set()
    for module in (descriptor, images, kinds, objectives, engines, services, parallel, catalog):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.skip", "pytest.importorskip", "pytest.xfail"):
                reasons.add(ast.literal_eval(node.args[0]))
    assert reasons == SKIPS
