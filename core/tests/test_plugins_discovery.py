"""One plugin's fault is its own: whatever it does, it is named with the reason, and every other plugin is found."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, found_in, make_dist, new_site, python

from swift.api import KINDS, DatasetSpec, ParallelSpec, hookspecs, plural
from swift.cli import listing
from swift.errors import ConfigError, PluginBroken, PluginConflict, PluginError, PluginNotFound
from swift.plugins import collect, index, scan
from swift.plugins.info import Entry
from swift.plugins.registry import Registry


@pytest.fixture
def site(tmp_path, monkeypatch):
    return new_site(tmp_path, monkeypatch)


def only(registry: Registry):
    (plugin,) = registry.plugins
    return plugin


def test_a_sound_plugin_is_found_with_its_origin(site):
    package = make_dist(
        site, direct_url=json.dumps({"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}})
    )
    registry = found_in(site)
    plugin = only(registry)
    assert (plugin.status, plugin.id, plugin.dist, plugin.version) == ("ok", "galore", "acme-swift-galore", "0.3.1")
    assert plugin.components == ("tuner:galore",) and plugin.source == "git+https://x/y.git@aaaaaaaaaaaa"
    assert plugin.file == str(site / package / "swift_plugin.py")
    entry = registry.find("tuner", "galore")
    assert entry.qualified == "acme-swift-galore/tuner:galore" and entry.origin == "acme-swift-galore 0.3.1"
    assert entry.spec.summary == "a test" and entry.spec == registry.find("tuner", entry.qualified).spec


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        ("import galore_torch_missing", "ModuleNotFoundError: No module named 'galore_torch_missing'"),
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("def f(:", "SyntaxError"),
        ("x = 1", "no function marked with @hookimpl"),
        (TUNER.replace("@hookimpl\n", ""), "swift_tuners is not marked with @hookimpl"),
        (TUNER.replace("    return", "    raise RuntimeError('boom')\n    return"), "swift_tuners raised RuntimeError: boom"),
        (TUNER.replace("    return", "    import sys; sys.exit('bye')\n    return"), "swift_tuners raised SystemExit: bye"),
        (TUNER.replace("    return [", "    return None and ["), "returned None; it must return a list of TunerSpec"),
        (TUNER.replace("return [TunerSpec(", "return [dict("), "returned dict"),
        (TUNER.replace("return [TunerSpec(", "from swift.api import HubSpec\n    return [HubSpec("), "returned HubSpec"),
        (TUNER.replace('impl="{package}.impl:Impl", ', ""), "tuner:galore: impl is missing"),
        (TUNER.replace('"{package}.impl:Impl"', '"{package}.impl"'), "is not a dotted path"),
        (TUNER.replace('"{name}"', '"Ga Lore"'), "has the name 'Ga Lore'; allowed are lower-case"),
        (TUNER.replace('summary="a test"', 'facts={"acme.x": object()}'), "not JSON serializable"),
        (TUNER.replace('summary="a test"', "summary=object()"), "summary must be plain data, not object"),
        (TUNER.replace('summary="a test"', "rank=8"), "unexpected keyword argument 'rank'"),
        (TUNER.replace("swift_tuners()", "swift_tuner()"), "no hook swift_tuner; did you mean swift_tuners?"),
        (TUNER.replace("swift_tuners()", "swift_tuners(config)"), "takes no arguments; this one asks for config"),
        (TUNER + "\n@hookimpl\ndef swift_train_begin(plan, model): ...\n", "asks for model; its arguments are plan, run_dir"),
        (
            TUNER.replace("TunerSpec, hookimpl", "Need, TunerSpec, hookimpl").replace(
                'summary="a test"', 'needs=(Need("huh", "w"),)'
            ),
            "'huh' is not a condition",
        ),
        (
            TUNER.replace("TunerSpec, hookimpl", "Clash, TunerSpec, hookimpl").replace(
                'summary="a test"', 'clashes=(Clash(("gpu:x",), "w"),)'
            ),
            "names no kind",
        ),
        (TUNER.replace("return [", "return 2 * ["), "offered twice by the same plugin"),
    ],
)
def test_a_faulty_plugin_is_broken_with_the_reason_and_hurts_no_other(site, descriptor, reason):
    make_dist(site, descriptor)
    make_dist(site, dist="acme-swift-sound", plugin="sound", name="sound")
    registry = found_in(site)
    faulty, sound = registry.plugins
    assert faulty.status == "broken" and reason in faulty.reason, faulty.reason
    assert "acme-swift-galore 0.3.1" in faulty.describe() and faulty.fix
    assert sound.status == "ok" and registry.find("tuner", "sound").dist == "acme-swift-sound"


def test_a_missing_library_is_named_as_the_plugins_own_metadata_does(site):
    make_dist(site, "import acme_absent.part", metadata="Requires-Dist: acme-absent-lib>=3\nRequires-Dist: packaging")
    assert only(found_in(site)).fix.startswith("pip install 'acme-absent-lib>=3'   or: swift plugin disable galore")


def test_a_library_that_the_metadata_forgets_is_named_by_its_module(site):
    make_dist(site, "import acme_absent.part")
    assert only(found_in(site)).fix.startswith("pip install acme-absent   or: ")


def test_an_own_module_that_is_gone_is_mended_by_installing_the_plugin_anew(site):
    make_dist(site, "import {package}.gone")
    assert only(found_in(site)).fix.startswith("pip install -U acme-swift-galore   or: ")


def test_what_a_door_says_while_it_is_imported_is_not_shown(site, capfd):
    make_dist(site, "import sys\nprint('hello')\nprint('there', file=sys.stderr)\n" + TUNER)
    assert only(found_in(site)).status == "ok" and capfd.readouterr() == ("", "")


def test_an_api_that_is_no_version_is_named(site):
    make_dist(site, TUNER.replace('summary="a test"', 'api=">=1"'))
    plugin = only(found_in(site))
    assert plugin.status == "incompatible" and "'>=1' is no plugin API; a version such as '1." in plugin.reason


def test_one_bad_hook_costs_only_its_own_specs(site):
    make_dist(
        site,
        TUNER.replace("TunerSpec, hookimpl", "HubSpec, TunerSpec, hookimpl") + "\n@hookimpl\ndef swift_hubs():\n    1 / 0\n",
    )
    registry = found_in(site)
    assert only(registry).status == "broken" and "swift_hubs raised ZeroDivisionError" in only(registry).reason
    assert registry.has("tuner", "galore")


def test_ctrl_c_is_not_swallowed_and_says_which_plugin_took_so_long(site, capsys):
    make_dist(site, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        found_in(site)
    assert "plugin 'galore' (acme-swift-galore 0.3.1); without it: SWIFT_PLUGINS=-galore" in capsys.readouterr().err
    assert not list((site.parent / "home" / "index").glob("loading.*"))


def test_an_illegal_entry_point_name_is_broken_and_not_imported(site):
    package = make_dist(site, plugin="Ga_Lore")
    assert "'Ga_Lore'; allowed are" in only(found_in(site)).reason
    assert f"{package}.swift_plugin" not in sys.modules


@pytest.mark.parametrize(("api", "status"), [("2.0", "incompatible"), ("0.9", "incompatible"), ("1.7", "ok"), ("1.0", "ok")])
def test_api_versions(site, api, status):
    make_dist(site, TUNER.replace('summary="a test"', f'api="{api}"'))
    plugin = only(found_in(site))
    assert plugin.status == status and plugin.api == api
    if api == "1.7":
        assert "built for plugin API 1.7" in plugin.reason
    if api == "2.0":
        assert "this core has 1." in plugin.reason and plugin.fix == "pip install -U swift-llm-core" and plugin.components == ()


def test_a_newer_minor_that_fails_says_which_core_it_wants(site):
    make_dist(site, "SWIFT_API = '1.9'\n" + TUNER.replace('summary="a test"', "novelty=1"))
    plugin = only(found_in(site))
    assert plugin.status == "broken" and plugin.fix == "pip install -U swift-llm-core"


def test_a_newer_minor_loads_through_spec_of_and_its_new_hooks_are_left_alone(site):
    source = TUNER.replace("TunerSpec(", "TunerSpec.of(api='1.9', novelty=1, ").replace(
        "@hookimpl", "@hookimpl\ndef swift_new(): ...\n@hookimpl"
    )
    make_dist(site, "SWIFT_API = '1.9'\n" + source)
    plugin = only(found_in(site))
    assert plugin.status == "ok" and plugin.components == ("tuner:galore",)
    assert "novelty" in plugin.reason and "swift_new" in plugin.reason


def test_a_plugin_that_imports_heavily_is_told_so(site):
    code = "from swift.plugins.registry import discover; print(discover().plugins)"
    make_dist(site, "import pydantic\n" + TUNER)
    assert "importing it brings in pydantic" in python(code, site=site).stdout


# ----------------------------------------------------------------------------------------------------------- duplicates


def two_claims(site):
    make_dist(site, dist="acme-swift-a", plugin="a", name="lora")
    make_dist(site, dist="acme-swift-b", version="2.0", plugin="b", name="lora")


def test_two_claims_are_listed_and_refused_only_when_used(site):
    two_claims(site)
    registry = found_in(site)
    assert [p.status for p in registry.plugins] == ["ok", "ok"] and list(registry.duplicates()) == ["tuner:lora"]
    with pytest.raises(PluginConflict) as caught:
        registry.find("tuner", "lora")
    assert "acme-swift-a 0.3.1" in str(caught.value) and "acme-swift-b 2.0" in str(caught.value)
    assert registry.find("tuner", "acme-swift-b/tuner:lora").version == "2.0"
    assert registry.find("tuner", "acme_swift.B/tuner:lora").version == "2.0"


def test_the_user_prefers_one(site):
    two_claims(site)
    (site.parent / "plugins.json").write_text('{"prefer": {"tuner:lora": "acme-swift-b"}}', encoding="utf-8")
    assert found_in(site).find("tuner", "lora").dist == "acme-swift-b"


def test_one_descriptor_under_two_distributions_is_one_plugin(site):
    package = make_dist(site, dist="acme-swift-a", plugin="a")
    make_dist(site, dist="acme-swift-b", plugin="b", package=package)
    registry = found_in(site)
    assert [p.status for p in registry.plugins] == ["ok", "disabled"] and "already registered" in registry.plugins[1].reason
    assert registry.find("tuner", "galore").dist == "acme-swift-a"


# ------------------------------------------------------------------------------------------------------------ preferences


@pytest.mark.parametrize(
    ("preferences", "variable", "states"),
    [
        ({"disabled": ["a"]}, None, ["disabled", "ok"]),
        ({"disabled": ["acme-swift-b"]}, None, ["ok", "disabled"]),
        ({"allow": ["acme-swift-b"]}, None, ["untrusted", "ok"]),
        ({"allow": ["acme-*==0.*"]}, None, ["ok", "untrusted"]),
        ({"allow": []}, None, ["untrusted", "untrusted"]),
        ({}, "none", ["disabled", "disabled"]),
        ({}, "b", ["disabled", "ok"]),
        ({}, "a,b", ["ok", "ok"]),
        ({}, "-b", ["ok", "disabled"]),
    ],
)
def test_the_user_decides_what_is_imported(site, monkeypatch, preferences, variable, states):
    packages = [
        make_dist(site, dist="acme-swift-a", plugin="a", name="x"),
        make_dist(site, dist="acme-swift-b", version="2.0", plugin="b", name="y"),
    ]
    (site.parent / "plugins.json").write_text(json.dumps(preferences), encoding="utf-8")
    if variable is not None:
        monkeypatch.setenv("SWIFT_PLUGINS", variable)
    for _ in range(2):  # rebuilt, then from the index
        registry = found_in(site)
        assert [p.status for p in registry.plugins] == states
    assert [f"{p}.swift_plugin" in sys.modules for p in packages] == [state == "ok" for state in states]


def test_swift_plugins_that_names_the_unknown_is_refused(site, monkeypatch):
    make_dist(site)
    monkeypatch.setenv("SWIFT_PLUGINS", "galroe")
    with pytest.raises(PluginError, match=r"names galroe, which is not installed; installed: galore"):
        found_in(site)


@pytest.mark.parametrize(
    ("words", "variable", "allow", "says"),
    [
        (["list", "tuners"], "nobody", None, ["SWIFT_PLUGINS=nobody leaves no plugin", "nobody is not installed", "galore"]),
        (["list"], "none", None, ["SWIFT_PLUGINS=none leaves no plugin", "unset SWIFT_PLUGINS"]),
        (["list", "tuners"], "", ["other-*"], ['"allow" in', "leaves no plugin", "galore"]),
    ],
)
def test_a_list_that_leaves_no_plugin_is_named(site, monkeypatch, words, variable, allow, says):
    make_dist(site)
    monkeypatch.setattr(index, "search_path", lambda: [str(site)])
    monkeypatch.setenv("SWIFT_PLUGINS", variable)
    if allow is not None:
        (site.parent / "plugins.json").write_text(json.dumps({"allow": allow}), encoding="utf-8")
    with pytest.raises(PluginError) as caught:
        listing.main(words[1:])
    assert all(word in str(caught.value) for word in says), str(caught.value)


def test_a_listing_says_that_others_were_left_out(site, monkeypatch, capsys):
    make_dist(site)
    monkeypatch.setattr(index, "search_path", lambda: [str(site)])
    monkeypatch.setenv("SWIFT_PLUGINS", "galore")
    assert listing.main(["models"]) == 0
    assert "no model is installed among what SWIFT_PLUGINS=galore leaves" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"disable": []}', '{"disabled": "a"}', '{"prefer": {"a": 1}}'])
def test_a_damaged_preferences_file_is_named(site, text):
    (site.parent / "plugins.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"plugins\.json"):
        found_in(site)


def test_strict_mode_makes_any_unusable_plugin_an_error_with_exit_code_3(site, monkeypatch):
    make_dist(site, "import nothing_of_that_name")
    monkeypatch.setenv("SWIFT_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="nothing_of_that_name") as caught:
        found_in(site)
    assert caught.value.exit_code == 3
    assert only(found_in(site, strict=False)).status == "broken"


# ----------------------------------------------------------------------------------------------------- finding and missing


def test_names_aliases_and_case(site):
    make_dist(site, TUNER.replace('summary="a test"', 'aliases=("Acme/GaLore", "ga-lore")'))
    registry = found_in(site)
    for name in ("galore", "GaLore", "Acme/GaLore", "acme/galore", "ga-lore", "tuner:galore"):
        assert registry.find("tuner", name).name == "galore"


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("tuner", "galorr", ["did you mean galore?"]),
        ("tuner", "lora", ["not installed", "pip install swift-llm-tuner-peft"]),
        ("device", "cuda", ["pip install swift-llm-device-cuda"]),
        ("model", "qwen3-8b", ["pip install swift-llm-model-qwen"]),
        ("parallel", "zero3", ["understood, but not built yet"]),
        ("engine", "vllm", ["understood, but not built yet"]),
        ("hub", "modelscope", ["understood, but not built yet"]),
        ("objective", "dpo", ["pip install swift-llm-objective-preference"]),
        ("objective", "kto", ["understood, but not built yet"]),
        ("tuner", "something-else", ["no tuner is called 'something-else'", "installed: galore"]),
        ("tunor", "x", ["there is no kind 'tunor'"]),
    ],
)
def test_a_name_that_nothing_offers_is_answered_with_what_to_do(site, kind, name, says):
    make_dist(site)
    with pytest.raises(PluginNotFound) as caught:
        found_in(site).find(kind, name)
    for words in says:
        assert words in str(caught.value)


def test_not_built_yet_says_what_there_is():
    registry = Registry(
        entries=[Entry(ParallelSpec(name=n, impl="a:b"), "torch", "swift-llm-parallel-torch", "1") for n in ("single", "ddp")]
    )
    with pytest.raises(PluginNotFound, match="'deepspeed' is understood, but not built yet; what there is: ddp, single"):
        registry.find("parallel", "deepspeed")


def test_asking_for_what_a_broken_plugin_offers_gives_its_reason(site):
    make_dist(site, "import galore_torch_missing", plugin="tuner-galore")
    with pytest.raises(PluginBroken, match="No module named 'galore_torch_missing'"):
        found_in(site).find("tuner", "galore")


# ------------------------------------------------------------------------------------------------------------------ tables


def test_hooks_and_kinds_agree():
    collection = {name for name in vars(hookspecs) if name.startswith("swift_")} - set(RUN_TIME)
    assert collection == set(collect.HOOKS) == {f"swift_{plural(kind)}" for kind in KINDS}


RUN_TIME = (
    "swift_plan_check",
    "swift_build_model",
    "swift_train_begin",
    "swift_train_step_end",
    "swift_checkpoint",
    "swift_train_end",
)


def test_the_scan_agrees_with_importlib_metadata(site):
    make_dist(site)
    ours = {(c.id, c.module, scan.normalize(c.dist), c.version) for c in scan.scan(index.search_path())}
    theirs = {
        (e.name, e.value, scan.normalize(e.dist.name), e.dist.version)
        for e in importlib.metadata.entry_points(group="swift.plugins")
    }
    assert ours == theirs and len(ours) >= 1


def test_plugins_are_never_loaded_from_the_current_folder(site, tmp_path):
    code = "from swift.plugins.registry import discover; print([p.id for p in discover().plugins])"
    make_dist(site, plugin="planted")
    assert "planted" not in python(code, cwd=site).stdout
    assert "planted" in python(code, cwd=site, site=site).stdout


def test_a_catalog_beside_a_door_is_a_list_of_specs(tmp_path):
    listed = [{"name": "a", "tasks": ["sft", "qa"], "columns": {"q": "query"}}, {"name": "b", "licence": "Apache-2.0"}]
    (tmp_path / "catalog.json").write_text(json.dumps(listed), encoding="utf-8")
    made = DatasetSpec.catalog(str(tmp_path / "swift_plugin.py"), sample="package:rows.jsonl")
    assert made == [
        DatasetSpec(name="a", tasks=("sft", "qa"), columns={"q": "query"}, sample="package:rows.jsonl"),
        DatasetSpec(name="b", licence="Apache-2.0", sample="package:rows.jsonl"),
    ]
    (tmp_path / "catalog.json").write_text('[{"name": "a", "colour": "red"}]', encoding="utf-8")
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        DatasetSpec.catalog(str(tmp_path / "swift_plugin.py"))
