"""A door that ends its process, hangs or is slow: the first start survives it, names it, and the next ones leave it out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, make_dist, new_site, python

in_a_copy = pytest.mark.skipif(sys.platform != "linux", reason="doors are read in a forked copy on Linux")


@pytest.fixture
def site(tmp_path, monkeypatch):
    return new_site(tmp_path, monkeypatch)


DISCOVER = """
from swift.plugins.registry import discover
print([(p.id, p.status) for p in discover().plugins if p.id in ("bad", "good", "worse")])
"""


@in_a_copy
@pytest.mark.parametrize("end", ["os.abort()", "os._exit(0)", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_door_that_ends_its_process_does_not_end_the_first_start(site, tmp_path, end):
    package = make_dist(site, f"import os; {end}", dist="acme-swift-bad", plugin="bad")
    make_dist(site, "import os; os._exit(1)", dist="acme-swift-worse", plugin="worse")
    make_dist(site, dist="acme-swift-good", plugin="good", name="good")
    first = python(DISCOVER, site=site)
    assert first.stdout.strip() == "[('bad', 'crashed'), ('good', 'ok'), ('worse', 'crashed')]", first.stderr
    for plugin, dist in (("bad", "acme-swift-bad"), ("worse", "acme-swift-worse")):
        assert f"plugin {plugin!r} ({dist} 0.3.1) ended the process that imported" in first.stderr
    second = python(DISCOVER, site=site)
    assert second.stdout == first.stdout and not second.stderr
    (site / package / "swift_plugin.py").write_text(
        TUNER.replace("{name}", "bad").replace("{package}", package), encoding="utf-8"
    )
    assert python(DISCOVER, site=site).stdout.strip() == "[('bad', 'ok'), ('good', 'ok'), ('worse', 'crashed')]"
    again = "import sys; from swift.cli.main import main; sys.exit(main(['plugin', 'retry', 'worse']))"
    assert "tried again" in python(again, site=site).stdout
    assert "ended the process" in python(DISCOVER, site=site).stderr, "forgotten, so it was tried again"


WAITING = """
import os, pathlib, signal, sys, time
{before}
pathlib.Path(os.environ["SWIFT_HOME"], "waits").write_text(str(os.getpid()), encoding="utf-8")
while True:
    time.sleep(60)
"""


def hanging(site, *, noted):
    """A process group that looks for plugins, and the pid of its copy, which is in the door and, perhaps, noted on disk."""
    home = site.parent / "home"
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", DISCOVER],
        env={**os.environ, "PYTHONPATH": str(site)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = ""
    while not pid or (noted and not list(home.glob(f"index/loading.*.{pid}"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
        pid = next((file.read_text(encoding="utf-8") for file in home.glob("waits")), "")
    return process, int(pid)


@in_a_copy
@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"], ids=["listens", "does not listen"])
@pytest.mark.parametrize("noted", [False, True])
def test_ctrl_c_ends_a_copy_that_hangs_and_names_the_plugin(site, before, noted):
    make_dist(site, WAITING.replace("{before}", before), dist="acme-swift-bad", plugin="bad")
    process, copy = hanging(site, noted=noted)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert said.count("while importing plugin 'bad' (acme-swift-bad 0.3.1); without it: SWIFT_PLUGINS=-bad\n") == 1, said
    assert not list((site.parent / "home" / "index").glob("loading.*")), "Ctrl+C is no crash"
    with pytest.raises(ProcessLookupError):
        os.kill(copy, 0)


@in_a_copy
def test_a_door_that_hung_until_all_was_killed_is_skipped_next_time(site):
    make_dist(site, WAITING.replace("{before}", ""), dist="acme-swift-bad", plugin="bad")
    make_dist(site, dist="acme-swift-good", plugin="good", name="good")
    process, _ = hanging(site, noted=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    second = python(DISCOVER, site=site)
    assert second.stdout.strip() == "[('bad', 'crashed'), ('good', 'ok')]", second.stderr


@in_a_copy
def test_a_slow_door_leaves_no_note(site):
    make_dist(site, "import time; time.sleep(0.5)\n" + TUNER, dist="acme-swift-bad", plugin="bad")
    noted = """
    from swift.plugins import build, markers
    build.PATIENCE, note = 0.02, markers.note
    markers.note = lambda *given: print("noted") or note(*given)
    """
    done = python(textwrap.dedent(noted) + DISCOVER, site=site)
    assert done.stdout.split("\n")[:2] == ["noted", "[('bad', 'ok')]"], done.stderr
    assert not list((site.parent / "home" / "index").glob("loading.*"))


@in_a_copy
def test_a_quick_door_costs_no_note(site):
    make_dist(site, dist="acme-swift-good", plugin="good", name="good")
    refuse = "from swift.plugins import markers; del markers.note\n"
    assert python(refuse + DISCOVER, site=site).stdout.strip() == "[('good', 'ok')]"


def test_where_no_copy_can_be_made_it_is_skipped_next_time(site, tmp_path):
    """A process of several threads is not copied."""
    waiting = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    package = make_dist(site, "import os; os.abort()", dist="acme-swift-bad", plugin="bad")
    make_dist(site, dist="acme-swift-good", plugin="good", name="good")
    assert python(waiting + DISCOVER, site=site).returncode == -6
    for _ in range(2):
        second = python(DISCOVER, site=site)
        assert second.stdout.strip() == "[('bad', 'crashed'), ('good', 'ok')]", second.stderr
    (site / package / "swift_plugin.py").write_text(
        TUNER.replace("{name}", "bad").replace("{package}", package), encoding="utf-8"
    )
    assert python(DISCOVER, site=site).stdout.strip() == "[('bad', 'ok'), ('good', 'ok')]"
    assert not list((tmp_path / "home" / "index").glob("loading.*"))
