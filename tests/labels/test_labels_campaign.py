"""Campaigns: the same result however they were run, exact numbers, counted failures, clear refusals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transip.config import LabelSettings
from transip.data.store import Pack
from transip.errors import InputError
from transip.labels.campaign import run_campaign
from transip.labels.chunks import Chunk, label_chunk

pytest.importorskip("tblite")
pytest.importorskip("rdkit")

SETTINGS = {
    "chunk": 4,
    "seed": 3,
    "workers": 1,
    "domains": [
        {"domain": "neutral_organics", "structures": 13, "max_atoms": 10, "conformers": 2},
        {"domain": "elytes", "structures": 3, "max_atoms": 8, "conformers": 2},
    ],
}
FAR = {"domain": "neutral_organics", "structures": 10, "max_atoms": 10, "displacement": "gaussian"}


def settings(**changes):
    return LabelSettings.model_validate(SETTINGS | changes)


def contents(path):
    """Every byte of a pack."""
    return {file.name: file.read_bytes() for file in sorted(Path(path).iterdir())}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "set.pack"
    run_campaign(settings(), path, progress=False)
    return path


def test_domains_have_exactly_what_was_asked_for(uninterrupted):
    pack = Pack.open(uninterrupted)
    assert pack.domains == ["neutral_organics", "elytes"]
    assert np.bincount(pack.domain_codes).tolist() == [13, 3]
    assert "GFN2" in pack.meta["level_of_theory"]
    assert [entry["domain"] for entry in pack.meta["provenance"]["failures"]] == pack.domains
    assert not list(uninterrupted.parent.glob(".*"))  # no work folder is left
    for i in range(len(pack)):  # frames of molecular dynamics, too
        structure = pack[i]
        assert structure.charges.sum() == pytest.approx(structure.charge, abs=1e-5)
        assert structure.dipole is not None and structure.spin_populations is not None


def test_the_number_of_workers_changes_nothing(uninterrupted, tmp_path):
    run_campaign(settings(workers=2), tmp_path / "set.pack", progress=False)
    assert contents(tmp_path / "set.pack") == contents(uninterrupted)


@pytest.fixture(params=["dask", "ray"])
def cluster(request):
    """A cluster of two processes on this machine, to which joblib's backend of the same name connects."""
    if request.param == "dask":
        distributed = pytest.importorskip("distributed")
        with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
            yield request.param
    else:
        ray = pytest.importorskip("ray")
        ray.init(num_cpus=2, include_dashboard=False)
        yield request.param
        ray.shutdown()


def test_a_cluster_changes_nothing(uninterrupted, tmp_path, cluster):
    run_campaign(settings(workers=-1, backend=cluster), tmp_path / "set.pack", progress=False)
    assert contents(tmp_path / "set.pack") == contents(uninterrupted)


def test_another_seed_gives_another_set(uninterrupted, tmp_path):
    run_campaign(settings(seed=4), tmp_path / "set.pack", progress=False)
    assert contents(tmp_path / "set.pack")["positions.npy"] != contents(uninterrupted)["positions.npy"]


def test_killed_and_resumed_is_as_if_never_killed(uninterrupted, tmp_path):
    script = tmp_path / "campaign.py"
    script.write_text(
        "from transip.config import LabelSettings\n"
        "from transip.labels.campaign import run_campaign\n"
        f"run_campaign(LabelSettings.model_validate({SETTINGS!r}), {str(tmp_path / 'set.pack')!r}, progress=False)\n"
    )
    work = tmp_path / ".set.pack.work"
    running = subprocess.Popen([sys.executable, script], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not list(work.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert list(work.glob("*.npz"))  # something was finished …
    assert not (tmp_path / "set.pack").exists()  # … and no half pack is to be seen

    run_campaign(settings(), tmp_path / "set.pack", progress=False)
    assert contents(tmp_path / "set.pack") == contents(uninterrupted)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes where Linux lists them")
def test_nobody_labels_for_a_killed_campaign(tmp_path):
    """Processes that have work left when the campaign is killed stop."""
    many = SETTINGS | {"workers": 2, "domains": [SETTINGS["domains"][0] | {"structures": 5000}]}
    mark = f"{tmp_path.name}-{os.getpid()}"
    script = tmp_path / "campaign.py"
    script.write_text(
        "from transip.config import LabelSettings\n"
        "from transip.labels.campaign import run_campaign\n"
        f"run_campaign(LabelSettings.model_validate({many!r}), {str(tmp_path / 'set.pack')!r}, progress=False)\n"
    )
    running = subprocess.Popen([sys.executable, script], env=os.environ | {"MARK": mark})

    def left() -> list[str]:
        return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in readable(path)]

    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set.pack.work/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(left()) > 2
    running.send_signal(signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes where Linux lists them")
def test_nobody_waits_for_a_killed_campaign(tmp_path):
    """Nor does a process that has nothing to do."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import os, subprocess, sys, time\n"
        "if len(sys.argv) == 1:\n"
        "    subprocess.run([sys.executable, __file__, str(os.getpid())])\n"
        "from transip.labels.campaign import _exit_with_parent\n"
        "assert 'torch' not in sys.modules\n"  # each worker would take seconds to import it
        "_exit_with_parent(int(sys.argv[1]))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    running = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    waiting = Path("/proc") / running.stdout.readline().strip() / "cmdline"
    time.sleep(2)
    assert readable(waiting)
    running.kill()
    running.wait()
    deadline = time.monotonic() + 30
    while readable(waiting) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not readable(waiting)


def readable(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has just ended, or belongs to somebody else
        return ""


def test_finished_chunks_are_not_labelled_again(tmp_path, monkeypatch):
    from transip.labels import campaign

    labelled = []

    def failing_late(given, entry, number):
        if len(labelled) == 2:
            raise KeyboardInterrupt
        labelled.append((entry, number))
        return label_chunk(given, entry, number)

    monkeypatch.setattr(campaign, "label_chunk", failing_late)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(settings(), tmp_path / "set.pack", progress=False)
    monkeypatch.setattr(campaign, "label_chunk", lambda *task: labelled.append(task[1:]) or label_chunk(*task))
    run_campaign(settings(), tmp_path / "set.pack", progress=False)
    assert len(labelled) == len(set(labelled))


def test_resuming_with_other_settings_is_refused(tmp_path, monkeypatch):
    from transip.labels import campaign

    def only_the_first(given, entry, number):
        if number:
            raise KeyboardInterrupt
        return label_chunk(given, entry, number)

    monkeypatch.setattr(campaign, "label_chunk", only_the_first)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(settings(), tmp_path / "set.pack", progress=False)
    kept = contents(tmp_path / ".set.pack.work")
    with pytest.raises(InputError, match="other settings"):
        run_campaign(settings(seed=9), tmp_path / "set.pack", progress=False)
    assert contents(tmp_path / ".set.pack.work") == kept


def test_an_interrupted_campaign_may_be_made_larger(uninterrupted, tmp_path, monkeypatch):
    """Chunks do not depend on how many structures are wanted, so those that are there count."""
    from transip.labels import campaign

    first, labelled = SETTINGS["domains"][0], []
    smaller = settings(domains=[first | {"structures": 1}, *SETTINGS["domains"][1:]])
    with monkeypatch.context() as stopped:
        stopped.setattr(campaign, "write_pack", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            run_campaign(smaller, tmp_path / "set.pack", progress=False)
    monkeypatch.setattr(campaign, "label_chunk", lambda *task: labelled.append(task[1:]) or label_chunk(*task))
    run_campaign(settings(), tmp_path / "set.pack", progress=False)
    assert (0, 0) not in labelled
    assert contents(tmp_path / "set.pack") == contents(uninterrupted)


def test_a_campaign_that_yielded_nothing_does_not_block_corrected_settings(tmp_path):
    with pytest.raises(InputError, match="no structure at all"):
        run_campaign(settings(domains=[FAR | {"max_force": 1e-6}], chunk=1), tmp_path / "set.pack", progress=False)
    assert len(run_campaign(settings(domains=[FAR]), tmp_path / "set.pack", progress=False)) == 10


def test_a_finished_pack_is_returned_and_another_is_not_overwritten(uninterrupted):
    before = contents(uninterrupted)
    assert len(run_campaign(settings(workers=2), uninterrupted, progress=False)) == 16
    with pytest.raises(InputError, match="exists already"):
        run_campaign(settings(seed=9), uninterrupted, progress=False)
    assert contents(uninterrupted) == before


def test_failures_are_counted_by_reason(tmp_path):
    domain = FAR | {"sigmas": [0.02, 0.2], "max_force": 6.0}
    pack = run_campaign(settings(domains=[domain]), tmp_path / "set.pack", progress=False)
    (entry,) = pack.meta["provenance"]["failures"]
    assert entry["failures"]["force above max_force"] > 0
    assert len(pack) == 10


def test_a_domain_that_yields_nothing_is_given_up(tmp_path):
    domain = FAR | {"sigmas": [0.2], "max_force": 1e-6}
    with pytest.raises(InputError, match=r"no structure at all.*force above max_force"):
        run_campaign(settings(domains=[domain], chunk=1), tmp_path / "set.pack", progress=False)
    assert not (tmp_path / "set.pack").exists()


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_backend_is_named(backend, package, tmp_path, monkeypatch):
    from transip.labels import campaign

    monkeypatch.setattr(campaign, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=package):
        run_campaign(settings(backend=backend), tmp_path / "set.pack", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_chunks_survive_a_round_trip(number, tmp_path):
    whole = label_chunk(settings(chunk=8), 0, 0)
    chunk = Chunk(whole.structures[:number], {"atoms overlap": 2})
    chunk.save(tmp_path / "chunk.npz")
    again = Chunk.load(tmp_path / "chunk.npz")
    assert again.failures == chunk.failures
    assert len(again.structures) == number
    for a, b in zip(again.structures, chunk.structures, strict=True):
        assert (a.charge, a.spin, a.energy, a.domain, a.source) == (
            b.charge,
            b.spin,
            b.energy,
            b.domain,
            b.source,
        )
        for name in ("numbers", "positions", "forces", "charges", "spin_populations", "dipole"):
            assert (getattr(a, name) == getattr(b, name)).all()
