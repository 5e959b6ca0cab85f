"""`swift plugin`, `swift doctor` and `swift list` answer with every plugin broken, and say what to type."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, make_dist, new_site, python

from swift.api import KINDS, Fact
from swift.api import plural as api_plural
from swift.cli import doctor, listing, plugin
from swift.cli.tables import pairs, table
from swift.errors import ConfigError, PluginBroken, PluginError, PluginNotFound
from swift.plugins import loading, registry, vocabulary
from swift.plugins.resolver import check

SETTINGS = """
from typing import Literal
from pydantic import Field
from swift.api.settings import Settings

class Own(Settings):
    rank: int = Field(8, ge=1)
    \"\"\"Rank of the projection.\"\"\"
    where: Literal["all", "none"] = "all"
    \"\"\"Which layers.\"\"\"
    names: list[str] | None = None
    \"\"\"Their names.\"\"\"
"""
RICH = TUNER.replace("TunerSpec, hookimpl", "Clash, Need, TunerSpec, hookimpl").replace(
    'summary="a test"',
    'summary="a test", aliases=("ga",), settings="{package}.settings:Own", requires=("no-such-dist>=1", "pydantic>=2"),'
    ' facts={"acme.x": (1, 2)}, needs=(Need("acme.x contains 1", "it must", code="ACME1"),),'
    ' clashes=(Clash(("device:npu", "tuner:galore"), "no kernel", code="ACME2"),)',
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    return new_site(tmp_path, monkeypatch, alone=True)


def test_plugin_list_shows_states_reasons_and_fixes(site, capsys):
    make_dist(site)
    make_dist(site, "import nothing_of_that_name", dist="acme-swift-bad", plugin="bad")
    assert plugin.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "galore  acme-swift-galore 0.3.1  ok" in out and "tuner:galore" in out
    assert "plugin 'bad' (acme-swift-bad 0.3.1" in out and "nothing_of_that_name" in out and "fix: " in out
    assert plugin.main(["list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [p["status"] for p in data["plugins"]] == ["broken", "ok"]
    assert plugin.main(["list", "--kind", "hub"]) == 0
    assert "no plugin offers the kind 'hub'" in capsys.readouterr().out


def test_strict_mode_gives_exit_code_3_after_the_list(site, capsys, monkeypatch):
    make_dist(site, "import nothing_of_that_name")
    monkeypatch.setenv("SWIFT_STRICT_PLUGINS", "1")
    assert plugin.main(["list"]) == 3 and doctor.main([]) == 3
    assert "nothing_of_that_name" in capsys.readouterr().out


def test_duplicates_are_shown_with_how_to_choose(site, capsys):
    make_dist(site, dist="acme-swift-a", plugin="a", name="lora")
    make_dist(site, dist="acme-swift-b", plugin="b", name="lora")
    plugin.main(["list"])
    out = capsys.readouterr().out
    assert "tuner:lora is offered by acme-swift-a 0.3.1 and acme-swift-b 0.3.1" in out and '"prefer"' in out
    doctor.main([])
    assert "acme-swift-a/tuner:lora" in capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["galore", "acme-swift-galore", "tuner:galore", "acme-swift-galore/tuner:galore", "ga", "tuner:GA"]
)
def test_plugin_show_tells_everything(site, capsys, what):
    make_dist(site, RICH, files={"settings.py": SETTINGS})
    assert plugin.main(["show", what]) == 0
    out = capsys.readouterr().out
    for words in (
        "acme-swift-galore 0.3.1", "source        index", "tuner:galore", "a test",
        "no-such-dist>=1  not installed  NOT MET", "acme.x  1, 2", "needs acme.x contains 1",
        "not with device:npu and tuner:galore",
        "rank     integer >= 1           8        Rank of the projection.", "all | none", "list of string | null",
    ):  # fmt: skip
        assert words in out, out
    assert plugin.main(["show", what, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["components"][0]["settings_schema"]["properties"]["rank"]["default"] == 8
    assert [r["met"] for r in data["components"][0]["requirements"]] == [False, True]


def test_plugin_show_of_the_unknown_offers_the_nearest(site):
    make_dist(site)
    with pytest.raises(PluginNotFound, match="did you mean galore"):
        plugin.main(["show", "galorr"])


def test_disable_and_enable_and_keep_the_rest_of_the_file(site, capsys):
    make_dist(site)
    file = site.parent / "plugins.json"
    file.write_text('{"prefer": {"tuner:x": "y"}}', encoding="utf-8")
    assert plugin.main(["disable", "galore"]) == 0
    plugin.main(["list"])
    assert "galore  acme-swift-galore 0.3.1  disabled" in capsys.readouterr().out
    assert plugin.main(["enable", "galore"]) == 0
    plugin.main(["list"])
    assert "galore  acme-swift-galore 0.3.1  ok" in capsys.readouterr().out
    assert json.loads(file.read_text(encoding="utf-8")) == {"prefer": {"tuner:x": "y"}, "disabled": []}
    with pytest.raises(PluginNotFound, match="no plugin is called 'galor'; did you mean galore"):
        plugin.main(["disable", "galor"])


def test_enable_takes_back_what_was_disabled_under_the_other_name(site, capsys):
    make_dist(site)
    for first, second in (("galore", "acme-swift-galore"), ("acme-swift-galore", "galore")):
        plugin.main(["disable", first])
        plugin.main(["enable", second])
        capsys.readouterr()
        plugin.main(["list"])
        assert "galore  acme-swift-galore 0.3.1  ok" in capsys.readouterr().out


def test_retry_forgets_a_crash(site, capsys):
    code = "from swift.plugins.registry import discover; discover()"
    make_dist(site, "import os; os.abort()")
    assert "ended the process that imported" in python(code, site=site).stderr
    assert doctor.main([]) == 1
    assert "crashed" in capsys.readouterr().out
    assert plugin.main(["retry", "galore"]) == 0
    assert "will be tried again" in capsys.readouterr().out
    assert not list((site.parent / "home" / "index").glob("loading.*"))


@pytest.mark.parametrize(
    ("direct_url", "line"),
    [
        ("", "acme-swift-galore==0.3.1"),
        (
            '{"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "p"}',
            "acme-swift-galore @ git+https://example.org/x.git@abc#subdirectory=p",
        ),
        (
            '{"url": "https://example.org/x.whl", "archive_info": {"hashes": {"sha256": "ab"}}}',
            "acme-swift-galore @ https://example.org/x.whl#sha256=ab",
        ),
        ('{"url": "https://example.org/x.whl", "archive_info": {"hash": "sha256=ab"}}',
         "acme-swift-galore @ https://example.org/x.whl#sha256=ab"),
        ('{"url": "file:///src/x", "dir_info": {}}', "acme-swift-galore @ file:///src/x"),
        ('{"url": "file:///src/x", "dir_info": {"editable": true}}', "-e /src/x  # acme-swift-galore==0.3.1"),
        ("{damaged", "acme-swift-galore==0.3.1"),
    ],
)  # fmt: skip
def test_freeze_writes_what_pip_reads_with_every_plugin_broken(site, capsys, direct_url, line):
    make_dist(site, "import nothing_of_that_name", direct_url=direct_url)
    make_dist(site, "raise SystemExit", dist="acme-swift-b", plugin="b", version="2.0")
    assert plugin.main(["freeze"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["acme-swift-b==2.0", line]
    for text in lines:
        if not text.startswith("-e"):
            Requirement(text)


def test_lock_notices_every_change(site, capsys, tmp_path):
    loading.digest.cache_clear()
    file = str(tmp_path / "lock.json")
    package = make_dist(site)
    for name in ("same", "upgraded", "removed"):
        make_dist(site, dist=f"acme-swift-{name}", plugin=name, name=name)
    assert plugin.main(["lock", file]) == 0 and plugin.main(["lock", "--check", file]) == 0
    assert f"5 distributions are as in {file}" in capsys.readouterr().out  # the four, and the core
    before = Path(file).read_text(encoding="utf-8")
    record = site / "acme_swift_galore-0.3.1.dist-info/RECORD"
    record.write_text(
        record.read_text(encoding="utf-8").replace(f"{package}/swift_plugin.py,sha256=x", f"{package}/swift_plugin.py,sha256=y")
    )
    (site / "acme_swift_removed-0.3.1.dist-info/entry_points.txt").unlink()
    info = site / "acme_swift_upgraded-0.3.1.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-swift-upgraded\nVersion: 0.4\n", encoding="utf-8")
    make_dist(site, dist="acme-swift-new", plugin="new", name="new")
    loading.digest.cache_clear()
    with pytest.raises(PluginError) as caught:
        plugin.main(["lock", file, "--check"])
    text = str(caught.value)
    for words in (
        "! acme-swift-galore 0.3.1: other code (digest locked ", "- acme-swift-removed: locked 0.3.1, not installed",
        "! acme-swift-upgraded: locked 0.3.1, installed 0.4", "+ acme-swift-new: installed 0.3.1, not in the lock",
        f"swift plugin lock {file}",
    ):  # fmt: skip
        assert words in text, text
    assert "acme-swift-same" not in text and "swift-llm-core" not in text
    assert caught.value.exit_code == 3 and Path(file).read_text(encoding="utf-8") == before
    loading.digest.cache_clear()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "distributions": {"a": {"x": 1}}}']
)
def test_a_damaged_lock_file_is_named(site, tmp_path, content):
    file = tmp_path / "lock.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lock\.json (is no lock file|has format 2)"):
        plugin.main(["lock", "--check", str(file)])
    with pytest.raises(ConfigError, match="there is no lock file"):
        plugin.main(["lock", "--check", str(file) + "x"])
    with pytest.raises(ConfigError, match="cannot be written"):
        plugin.main(["lock", str(tmp_path / "no" / "such" / "folder")])


def test_install_and_uninstall_show_the_pip_call_and_look_at_no_plugin(tmp_path):
    site = tmp_path / "site"
    make_dist(site, "import os; os.abort()")
    code = """
    import sys
    from swift.cli.plugin import main
    print(main({words!r}))
    """
    env = {"SWIFT_HOME": str(tmp_path / "home"), "SWIFT_PLUGINS": "nothing-of-that-name", "PIP_NO_INDEX": "1"}
    words = ["install", "--dry-run", "--no-deps", "swift-llm-core"]
    done = python(code.format(words=words), site=site, **env)
    assert done.stdout.splitlines()[0] == f"$ {sys.executable} -m pip install --dry-run --no-deps swift-llm-core"
    assert "already satisfied" in done.stdout and done.stdout.splitlines()[-1] == "0", done.stderr
    done = python(code.format(words=["install", "no such requirement!"]), site=site, **env)
    assert "-m pip install 'no such requirement!'" in done.stdout and done.stdout.splitlines()[-1] == "1"
    done = python(code.format(words=["uninstall", "-y", "nothing-of-that-name"]), site=site, **env)
    assert "-m pip uninstall -y nothing-of-that-name" in done.stdout and done.stdout.splitlines()[-1] == "0"
    assert not (tmp_path / "home").exists()


def test_without_pip_the_command_for_uv_is_given(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PluginError, match="has no pip\n  fix: uv pip install --python .* acme-swift-x"):
        plugin.main(["install", "acme-swift-x"])


def test_check_of_what_cannot_be_checked(site):
    make_dist(site, "import nothing_of_that_name")
    with pytest.raises(PluginBroken, match="nothing_of_that_name"):
        plugin.main(["check", "galore"])
    with pytest.raises(PluginNotFound, match="did you mean galore"):
        plugin.main(["check", "galor"])
    with pytest.raises(PluginError, match="cannot be used: plugin 'galore'"):
        plugin.main(["check", "tuner:galore"])


def test_list_shows_components_and_filters(site, capsys):
    make_dist(site)
    make_dist(site, dist="acme-swift-b", plugin="b", name="badam")
    assert listing.main(["tuners"]) == 0
    out = capsys.readouterr().out
    assert out.index("badam") < out.index("galore") and "a test" in out and "mergeable" in out
    assert listing.main(["tuner", "BAD"]) == 0
    out = capsys.readouterr().out
    assert "badam" in out and "galore" not in out
    assert listing.main([]) == 0
    assert "tuners  2          badam, galore" in capsys.readouterr().out
    assert listing.main(["tuners", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["badam", "galore"]
    with pytest.raises(ConfigError, match="there is no kind 'tunors'"):
        listing.main(["tunors"])


def test_the_kinds_of_the_list_are_those_of_the_api():
    assert tuple(KINDS) == listing.KINDS and [listing.plural(k) for k in KINDS] == [api_plural(k) for k in KINDS]


def test_every_kind_with_columns_lists_what_is_installed_here(capsys):
    for kind in listing.KINDS:
        assert listing.main([kind]) == 0
    assert capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------------ doctor


def test_doctor_finds_no_fault_where_there_is_none(site, capsys):
    make_dist(site)
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert "no faults" in out and "plugins: 1 of 1 usable" in out
    assert doctor.main(["--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["python"].startswith("3.") and data["plugins"][0]["status"] == "ok"
    assert not [f for f in data["findings"] if f["level"] == "fault"]


def test_doctor_exits_1_for_a_broken_plugin_with_its_fix(site, capsys):
    make_dist(site, "import nothing_of_that_name")
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "x plugin galore: acme-swift-galore 0.3.1" in out and "nothing_of_that_name" in out and "1 fault(s)" in out


def test_doctor_with_a_damaged_preferences_file(site, capsys):
    (site.parent / "plugins.json").write_text("{", encoding="utf-8")
    assert doctor.main([]) == 1
    assert "plugins.json cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["RECORD", "top_level.txt"])
def test_doctor_finds_others_that_install_a_package_named_swift(site, capsys, name):
    make_dist(site)
    info = site / "python_swiftclient-4.5.0.dist-info"
    info.mkdir()
    (info / name).write_text(
        {"RECORD": "a/b.py,,\r\nswift/x.py,sha256=1,2\r\n", "top_level.txt": "swift\n"}[name], encoding="utf-8"
    )
    assert doctor.main([]) == 1
    assert "python-swiftclient 4.5.0 installs an import package named swift too" in capsys.readouterr().out


def test_doctor_asks_probes_and_survives_them(site, capsys):
    descriptor = """
    from swift.api import DeviceSpec, hookimpl

    @hookimpl
    def swift_devices():
        return [DeviceSpec(name=n, impl="a:b", probe=f"{package}.probes:{n}") for n in ("here", "absent", "faulty", "gone")]
    """.replace('f"{package}', 'f"{PACKAGE}')
    package = make_dist(site, descriptor.replace("{PACKAGE}", "{__package__}"), files={"probes.py": """
    from swift.api import DeviceInfo
    def here(): return DeviceInfo(count=2, names=("Acme 1", "Acme 1"), memory=2**34)
    def absent(): return None
    def faulty(): raise SystemExit("bad driver")
    """})  # fmt: skip
    assert package and doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "here    2      Acme 1  16.0 GiB" in out and "SystemExit: bad driver" in out and "AttributeError" in out
    assert "x device absent" not in out


def test_doctor_notes_unmet_requirements_of_unused_components(site, capsys):
    make_dist(site, RICH, files={"settings.py": SETTINGS})
    assert doctor.main([]) == 0
    assert "! no-such-dist>=1: found nothing; needed by tuner:galore" in capsys.readouterr().out


def test_doctor_compares_the_metadata_of_plugins_with_the_installed_libraries(site, capsys):
    make_dist(site, metadata="""
Requires-Dist: pydantic<1
Requires-Dist: no-such-lib>=2; python_version >= "3"
Requires-Dist: not-here-either; python_version < "3"
Requires-Dist: packaging
Provides-Extra: plots
Requires-Dist: no-such-plots>=3; extra == "plots"
Provides-Extra: test
Requires-Dist: no-such-tests; extra == "test"
""")  # fmt: skip
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "x acme-swift-galore: needs pydantic<1, found 2." in out and "needs no-such-lib>=2, found nothing" in out
    assert "fix: pip install 'pydantic<1' 'no-such-lib>=2'" in out and "needs packaging" not in out
    assert "! acme-swift-galore: optional part [plots] needs no-such-plots>=3, found nothing" in out
    assert "fix: pip install 'acme-swift-galore[plots]'" in out
    assert "no-such-tests" not in out and "not-here-either" not in out


def test_doctor_explains_a_broken_plugin_by_the_library_that_it_lacks(site, capsys):
    make_dist(site, "import no_such_lib", metadata="Requires-Dist: no-such-lib>=2")
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "No module named 'no_such_lib'" in out and "needs no-such-lib>=2, found nothing" in out


def test_doctor_notes_words_that_nobody_declares(site, capsys):
    words = """
    from swift.api import Fact, Need, TunerSpec, hookimpl

    @hookimpl
    def swift_tuners():
        need = Need("acme.tilse >= 2", "two are needed")
        return [TunerSpec(name="{name}", impl="a:b", needs=(need,), declares=(Fact("acme.tiles", "int", "tiles of a block"),))]
    """
    make_dist(site, words)
    assert doctor.main([]) == 0
    assert "fact acme.tilse is unknown; did you mean acme.tiles?" in capsys.readouterr().out
    assert listing.main(["facts", "tiles"]) == 0
    assert "acme.tiles  int   acme-swift-galore 0.3.1  tiles of a block" in capsys.readouterr().out
    assert plugin.main(["show", "tuner:galore"]) == 0
    assert "tiles of a block" in capsys.readouterr().out


def test_a_fact_of_one_plugin_decides_about_another(site):
    declares = "declares=(Fact('acme.tiles', 'int', 'tiles of a block'),)"
    door = "from swift.api import Fact, Need, {kind}, hookimpl\n@hookimpl\ndef {hook}():\n    return [{spec}]\n"
    device = f"DeviceSpec(name='tiled', impl='a:b', facts={{'acme.tiles': 1}}, {declares})"
    tuner = "TunerSpec(name='tiler', impl='a:b', needs=(Need('acme.tiles >= 2', 'it tiles'),))"
    doors = (("DeviceSpec", "swift_devices", device), ("TunerSpec", "swift_tuners", tuner))
    for number, (kind, hook, spec) in enumerate(doors):
        text = door.replace("{kind}", kind).replace("{hook}", hook).replace("{spec}", spec)
        make_dist(site, text, dist=f"acme-swift-{number}", plugin=f"p{number}")
    found = registry.discover()
    assert found.find("device", "tiled").spec.declares == (Fact("acme.tiles", "int", "tiles of a block"),)
    (problem,) = check({e.kind: e for e in found.entries()}).problems
    assert problem.parties == ("tuner:tiler", "device:tiled") and "acme.tiles=1 with device:tiled" in problem.message
    known = vocabulary.known_facts(found.entries())
    assert not any(fault for e in found.entries() for fault in vocabulary.faults(e.spec, known).values() if fault)


def test_doctor_notes_copies_of_a_checkout(site, capsys, monkeypatch):
    make_dist(site, dist="swift-llm-tuner-galore")
    checkout = Path(__file__).parents[2]
    monkeypatch.chdir(checkout / "core")
    doctor.main([])
    assert f"swift-llm-tuner-galore installed as copies; edits in {checkout} are not live" in capsys.readouterr().out


def test_the_commands_import_nothing_heavy(tmp_path):
    heavy = ("torch", "transformers", "peft", "datasets", "pydantic", "pluggy", "rich", "yaml", "numpy")
    for module, argv in (("plugin", ["list"]), ("listing", ["tuners"]), ("doctor", [])):
        code = f"""
        import sys
        from swift.cli.{module} import main
        main({argv!r})
        print([m for m in {heavy!r} if m in sys.modules])
        """
        done = python(code, SWIFT_HOME=str(tmp_path))
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_tables():
    assert table(("a", "bb"), [("x", 1), ("yyy", "")], width=0) == "a    bb\n---  --\nx    1\nyyy"
    assert table(("a", "b"), [("x", "long words here")], width=10).splitlines()[-1] == "x  long..."
    assert pairs([("a", 1), ("bcd", "x"), ("none", "")]) == "  a    1\n  bcd  x"
