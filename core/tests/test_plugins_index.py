"""The index answers for as long as nothing changed, and only then; a broken plugin is tried again when it may be mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, found_in, make_dist, new_site, python

from swift.config import sections
from swift.errors import PluginBroken

HEAVY = ("torch", "transformers", "peft", "datasets", "trl", "pydantic", "yaml", "rich", "numpy", "pyarrow")
WARM = (*HEAVY, "pluggy", "importlib.metadata", "dataclasses", "inspect", "argparse")
SECTIONS = (
    "import sys; from swift.plugins.registry import discover; r = discover(); {}; print([m for m in {!r} if m in sys.modules])"
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    return new_site(tmp_path, monkeypatch)


def test_the_second_start_reads_the_index_and_finds_the_same(site):
    make_dist(site)
    first, second = found_in(site), found_in(site)
    assert first.rebuilt and not second.rebuilt
    assert first.plugins == second.plugins and first.entries() == second.entries()
    assert [e.spec for e in first.entries()] == [e.spec for e in second.entries()]
    assert found_in(site, rebuild=True).rebuilt


def test_specs_of_installed_plugins_survive_the_index_unchanged():
    """Every field of every spec that is installed here, through JSON and back, against what the descriptor returned."""
    code = """
    import importlib, sys
    from swift.plugins.collect import HOOKS
    from swift.plugins.registry import discover
    discover(); registry = discover()
    assert not registry.rebuilt or any(p.status != "ok" for p in registry.plugins)
    count = 0
    for plugin in registry.plugins:
        module = importlib.import_module(plugin.module)
        for hook in HOOKS.keys() & vars(module).keys():
            for spec in getattr(module, hook)():
                entry = next(e for e in registry.entries(spec.kind) if e.name == spec.name and e.plugin == plugin.id)
                assert entry.spec == spec, (entry.spec, spec)
                count += 1
    print(count)
    """
    done = python(code)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def touch_descriptor(site, package):
    file = site / package / "swift_plugin.py"
    file.write_text(file.read_text(encoding="utf-8").replace("a test", "another"), encoding="utf-8")


def add_a_plugin(site, package):
    make_dist(site, dist="acme-swift-new", plugin="new", name="new")


def remove_the_plugin(site, package):
    (site / "acme_swift_galore-0.3.1.dist-info").rename(site / "gone")


def edit_entry_points(site, package):
    file = site / "acme_swift_galore-0.3.1.dist-info" / "entry_points.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("galore =", "renamed ="), encoding="utf-8")


def disable_it(site, package):
    (site.parent / "plugins.json").write_text('{"disabled": ["galore"]}', encoding="utf-8")


@pytest.mark.parametrize("change", [touch_descriptor, add_a_plugin, remove_the_plugin, edit_entry_points, disable_it])
def test_a_change_is_seen(site, change):
    package = make_dist(site)
    found_in(site)
    assert not found_in(site).rebuilt
    before = found_in(site).plugins
    change(site, package)
    after = found_in(site)
    assert after.rebuilt
    assert after.plugins != before or change is touch_descriptor
    assert not found_in(site).rebuilt


def test_an_edit_beside_the_door_of_an_editable_plugin_is_seen(site):
    package = make_dist(site)
    url = {"url": f"file://{site}", "dir_info": {"editable": True}}
    (site / "acme_swift_galore-0.3.1.dist-info" / "direct_url.json").write_text(json.dumps(url), encoding="utf-8")
    catalog = site / package / "catalog.py"
    catalog.write_text("WORDS = 1\n", encoding="utf-8")
    found_in(site)
    assert not found_in(site).rebuilt
    catalog.write_text("WORDS = 200\n", encoding="utf-8")
    assert found_in(site).rebuilt
    assert not found_in(site).rebuilt


def test_another_core_version_does_not_read_this_index(site, monkeypatch):
    make_dist(site)
    found_in(site)
    monkeypatch.setattr("swift.__version__", "9.9.9")
    assert found_in(site).rebuilt


def mend_door(site, package):
    (site / package / "swift_plugin.py").write_text(WHOLE.replace("{package}", package), encoding="utf-8")


def mend_part(site, package):
    (site / package / "parts" / "names.py").write_text("NAME = 'galore'\n", encoding="utf-8")


def mend_by_a_module(site, package):
    (site / package / "parts" / "more.py").write_text("", encoding="utf-8")


def mend_by_a_library(site, package):
    (site / "acme_galore_library.py").write_text("", encoding="utf-8")


WHOLE = TUNER.replace("{name}", "galore")
BROKEN = {
    "door": ("1 / 0", "", mend_door),
    "part": ("from {package}.parts.names import NAME\n" + WHOLE, "NAME = 1 / 0\n", mend_part),
    "syntax": ("from {package}.parts.names import NAME\n" + WHOLE, "NAME = = 1\n", mend_part),
    "what it returns": (
        "from {package}.parts.names import NAME\n" + WHOLE.replace('"galore"', "NAME"),
        "NAME = 'A B'\n",
        mend_part,
    ),
    "a module that is not there": ("import {package}.parts.more\n" + WHOLE, "", mend_by_a_module),
    "a library that is not there": ("import acme_galore_library\n" + WHOLE, "", mend_by_a_library),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_remembered_until_it_may_be_mended(site, case):
    door, part, mend = BROKEN[case]
    package = make_dist(site, door)
    (site / package / "parts").mkdir()
    (site / package / "parts" / "__init__.py").write_text("", encoding="utf-8")
    (site / package / "parts" / "names.py").write_text(part, encoding="utf-8")
    make_dist(site, dist="acme-swift-sound", plugin="sound", name="sound")
    code = """
    import sys
    from swift.plugins.registry import discover
    registry = discover(paths=[sys.path[1]])
    print(registry.rebuilt, next(p.status for p in registry.plugins if p.id == "galore"), registry.has("tuner", "sound"))
    """
    said = [python(code, site=site) for _ in range(2)]
    assert [done.stdout.split() for done in said] == [["True", "broken", "True"], ["False", "broken", "True"]], said
    assert found_in(site, strict=False).rebuilt, "commands that explain the installation look again"
    mend(site, package)
    assert python(code, site=site).stdout.split() == ["True", "ok", "True"]
    assert python(code, site=site).stdout.split() == ["False", "ok", "True"]


def test_a_damaged_index_is_rebuilt(site):
    make_dist(site)
    found_in(site)
    (file,) = (site.parent / "home").rglob("plugins-*.json")
    for text in ("", "{", "[]", '{"head": 1}', file.read_text(encoding="utf-8")[:-40]):
        file.write_text(text, encoding="utf-8")
        registry = found_in(site)
        assert registry.rebuilt and registry.has("tuner", "galore")


def test_no_index_when_switched_off(site, monkeypatch):
    make_dist(site)
    monkeypatch.setenv("SWIFT_NO_INDEX", "1")
    assert found_in(site).rebuilt and found_in(site).rebuilt
    assert not list((site.parent / "home").rglob("plugins-*.json"))


def test_a_home_that_cannot_be_written_is_tolerated(site, monkeypatch):
    """A file where a folder should be refuses root as well, which mode bits do not."""
    make_dist(site)
    (site.parent / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SWIFT_HOME", str(site.parent / "file" / "home"))
    assert found_in(site).has("tuner", "galore") and found_in(site).rebuilt


def test_eight_processes_at_once_leave_one_whole_index(site):
    make_dist(site)
    code = "from swift.plugins.registry import discover; assert discover().has('tuner', 'galore')"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(8)]
    assert [run.wait(60) for run in runs] == [0] * 8
    files = list((site.parent / "home" / "index").iterdir())
    assert len(files) == 1 and json.loads(files[0].read_text(encoding="utf-8"))["plugins"]


# --------------------------------------------------------------------------------------------------------------- schemas

SETTINGS = """
from swift.api.settings import Settings

class GaloreSettings(Settings):
    rank: int = {rank}
    \"\"\"Rank of the projection.\"\"\"
"""


def test_settings_schemas_are_kept_and_follow_their_file(site):
    descriptor = TUNER.replace('summary="a test"', 'settings="{package}.settings:GaloreSettings"')
    package = make_dist(site, descriptor, files={"settings.py": SETTINGS.replace("{rank}", "8")})
    dotted = f"{package}.settings:GaloreSettings"
    code = f"""
    import sys
    from swift.plugins.registry import discover
    registry = discover()
    field = registry.settings_schema({dotted!r})["properties"]["rank"]
    print(registry.rebuilt, "pydantic" in sys.modules, field["default"], field["description"])
    """
    assert python(code, site=site).stdout.split(maxsplit=3) == ["True", "True", "8", "Rank of the projection.\n"]
    assert python(code, site=site).stdout.split(maxsplit=3)[:3] == ["False", "False", "8"]
    (site / package / "settings.py").write_text(SETTINGS.replace("{rank}", "16"), encoding="utf-8")
    assert python(code, site=site).stdout.split(maxsplit=3)[:3] == ["False", "True", "16"]
    make_dist(site, dist="acme-swift-new", plugin="new", name="new")  # a rebuilt index keeps the schemas
    assert python(code, site=site).stdout.split(maxsplit=3)[:3] == ["True", "False", "16"]


def test_settings_that_cannot_be_imported_are_translated(site):
    make_dist(site)
    with pytest.raises(PluginBroken, match="no module 'acme_nowhere'"):
        found_in(site).settings_schema("acme_nowhere.settings:X")
    assert found_in(site).settings_schema("") is None


@pytest.mark.parametrize("verb", ["sft", "pt", "train", "plan", "infer", "chat", "export"])
def test_core_schemas_are_those_of_the_sections(site, verb):
    tables = {"infer": sections.INFER_SECTIONS, "chat": sections.CHAT_SECTIONS, "export": sections.EXPORT_SECTIONS}
    table = tables.get(verb, sections.TRAIN_SECTIONS)
    schema = found_in(site).core_schema(verb)
    assert {name: set(s["properties"]) for name, s in schema.items()} == {
        name: set(cls.model_fields) for name, cls in table.items()
    }
    assert all(s["x-primary"] == table[name].primary and s["x-group"] == table[name].group for name, s in schema.items())


# ---------------------------------------------------------------------------------------------------------------- start-up


def test_a_warm_start_imports_nothing_heavy(site):
    make_dist(site)
    for use in ("r.entries()", "r.find('tuner', 'galore')", "r.core_schema('sft')"):
        python(SECTIONS.format(use, WARM), site=site)
        done = python(SECTIONS.format(use, WARM), site=site)
        assert done.stdout.strip() == "[]", (use, done.stdout, done.stderr)


def test_a_rebuild_imports_no_plugin_implementation_nor_what_it_needs(site):
    make_dist(site)
    done = python(SECTIONS.format("assert r.rebuilt", (*HEAVY, "pluggy", "importlib.metadata")), site=site)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_door_of_every_installed_plugin_is_light(site):
    """Each descriptor alone in a process: it may import the standard library and `swift.api`."""
    code = """
    import importlib, sys
    from swift.plugins.registry import discover
    for plugin in discover().plugins:
        importlib.import_module(plugin.module)
    heavy = {heavy!r}
    print([m for m in heavy if m in sys.modules])
    print([m for m in sys.modules if m.startswith("swift.") and m.split(".")[1] not in ("api", "errors", "plugins")])
    """
    done = python(code.replace("{heavy!r}", repr((*HEAVY, "pluggy"))))
    assert done.stdout.strip() == "[]\n[]", done.stdout + done.stderr
