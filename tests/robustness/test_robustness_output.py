"""Outputs that cannot be written, or that another process writes: one clear message, nothing half-written."""

import glob
import os
import signal
import subprocess
from pathlib import Path

import pytest

from toy import toy_recipe
from transip.config import LabelSettings
from transip.data.pack import pack_files
from transip.errors import InputError
from transip.files import atomic_path, output_lock, remove_stale, write_text
from transip.inference.ase import TransIPCalculator
from transip.inference.md import run_md
from transip.inference.predict import predict_file
from transip.inference.relax import relax_file
from transip.labels.campaign import run_campaign
from transip.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition", "ignore:.*not converged")

LABELS = {
    "chunk": 2,
    "workers": 1,
    "domains": [
        {"domain": "neutral_organics", "structures": 4, "max_atoms": 6, "conformers": 1, "displacement": "gaussian"}
    ],
}


@pytest.fixture(params=["data build", "data pack", "train", "predict", "relax", "md"])
def verb(request, inputs, toy_packs):
    """A function that writes to a path, and how many bytes a disk may have left for it to fail."""
    source, calculator = inputs / "in.extxyz", TransIPCalculator(inputs / "model")

    def labelling(output: Path) -> None:
        pytest.importorskip("tblite")
        pytest.importorskip("rdkit")
        run_campaign(LabelSettings.model_validate(LABELS), output, progress=False)

    return {
        "data build": (labelling, 600),
        "data pack": (lambda output: pack_files([source], output, level_of_theory="toy"), 150),
        "train": (lambda output: train(toy_recipe(toy_packs), output, resume=True, progress=False), 20_000),
        "predict": (lambda output: predict_file(calculator, source, output, overwrite=True, progress=False), 500),
        "relax": (lambda output: relax_file(calculator, source, output, steps=2, overwrite=True, progress=False), 500),
        "md": (
            lambda output: run_md(calculator, source, output, steps=20, interval=1, overwrite=True, progress=False),
            3000,
        ),
    }[request.param]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name[0] == ".")


def test_a_full_disk_is_said_and_what_was_begun_is_finished_later(verb, tmp_path, full_disk):
    run, size = verb
    output = tmp_path / "out.xyz"
    with full_disk(size), pytest.raises(InputError, match=r"cannot be written \(.*[Ff]ile too large"):
        run(output)
    assert visible(tmp_path) in ([], ["out.partial.xyz"], ["out.xyz"])
    if output.exists():  # of a training, which has a folder
        assert not list(output.rglob("*.safetensors")) and (output / "recipe.yaml").exists()
    run(output)
    assert visible(tmp_path) == ["out.xyz"] and hidden(tmp_path) == []


def test_a_folder_that_cannot_be_written(verb, read_only):
    run, _ = verb
    with pytest.raises(InputError, match=r"out(\.partial)?\.xyz: cannot be written \((Permission|Read-only)"):
        run(read_only / "out.xyz")
    with pytest.raises(InputError, match=r"new: is not an existing folder|cannot be written"):
        run(read_only / "new" / "out.xyz")
    assert list(read_only.iterdir()) == []


def test_two_processes_do_not_write_the_same_output(verb, tmp_path):
    """In one process: a second look at the lock is as good as another process's."""
    run, _ = verb
    output = tmp_path / "out.xyz"
    with output_lock(tmp_path / "out.partial.xyz"), output_lock(output):
        before = hidden(tmp_path)
        with pytest.raises(InputError, match=r"is being written by another process \(process \d+ on .*\)\n.*wait"):
            run(output)
        assert visible(tmp_path) == [] and hidden(tmp_path) == before
    assert hidden(tmp_path) == []


class TestClaim:
    def test_another_process_is_kept_out_until_it_is_killed(self, tmp_path, held):
        output = tmp_path / "new" / "out.pack"
        process: subprocess.Popen = held(output)
        with pytest.raises(InputError, match=f"process {process.pid} on"), output_lock(output):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert hidden(tmp_path) == [".out.pack.lock"], "the killed process left its lock file"
        with output_lock(output):
            write_text(output, "mine")
        assert hidden(tmp_path) == [] and output.read_text() == "mine"

    def test_a_lock_file_that_is_removed_while_one_waits_for_it_is_made_again(self, tmp_path, monkeypatch):
        """Between opening the file and locking it, the process that held it ends and removes it."""
        output, real, removed = tmp_path / "out", Path.open, []

        def late(path: Path, *arguments, **options):
            handle = real(path, *arguments, **options)
            if not removed:
                removed.append(path)
                path.unlink()
            return handle

        monkeypatch.setattr(Path, "open", late)
        with output_lock(output):
            assert removed == [tmp_path / ".out.lock"] and removed[0].exists()
            with pytest.raises(InputError, match="another process"), output_lock(output):
                pass

    def test_a_full_disk_does_not_keep_the_lock_from_locking(self, tmp_path, full_disk):
        output, message = tmp_path / "out", "is being written by another process\n"
        with full_disk(0), output_lock(output), pytest.raises(InputError, match=message), output_lock(output):
            pass

    def test_a_file_system_without_locks_is_written_all_the_same(self, tmp_path, monkeypatch):
        def none(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("transip.files.fcntl.flock", none)
        with output_lock(tmp_path / "out"):
            write_text(tmp_path / "out", "mine")
        assert visible(tmp_path) == ["out"] and hidden(tmp_path) == []

    def test_folders_made_for_nothing_go_again(self, tmp_path):
        with pytest.raises(InputError, match="bad"), output_lock(tmp_path / "a" / "b" / "out"):
            raise InputError("bad")
        assert list(tmp_path.iterdir()) == []


class TestWhatKilledProcessesLeave:
    def test_is_removed_by_the_next_one_that_writes_the_same(self, tmp_path):
        for name in (".o.1234.partial", ".o.xyz.1234.partial", ".o.partial", ".other.77.partial", "o.77.partial"):
            (tmp_path / name).write_text("half")
        (tmp_path / ".o.99.partial").mkdir()
        with output_lock(tmp_path / "o"):
            pass
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {".o.xyz.1234.partial", ".o.partial", ".other.77.partial", "o.77.partial"}
        (tmp_path / ".tmpa1B2c3").write_text("half of a file of safetensors")
        remove_stale(tmp_path / "*")
        assert {path.name for path in tmp_path.iterdir()} == {".o.partial", "o.77.partial"}

    @pytest.mark.parametrize("replaced", [False, True])
    def test_a_pack_that_was_about_to_be_replaced_comes_back(self, tmp_path, replaced):
        previous = tmp_path / ".x.pack.1234.previous.partial"
        previous.mkdir()
        (previous / "meta.json").write_text("old")
        if replaced:
            (tmp_path / "x.pack").mkdir()
            (tmp_path / "x.pack" / "meta.json").write_text("new")
        with output_lock(tmp_path / "x.pack"):
            assert (tmp_path / "x.pack" / "meta.json").read_text() == ("new" if replaced else "old")
        assert visible(tmp_path) == ["x.pack"] and hidden(tmp_path) == []

    def test_names_are_no_patterns(self, tmp_path):
        name = glob.escape("[a]*")
        (tmp_path / ".a.1.partial").write_text("")
        with output_lock(tmp_path / name):
            assert (tmp_path / ".a.1.partial").exists()


def test_a_model_can_be_read_by_whoever_may_read_other_new_files(inputs, tmp_path):
    (tmp_path / "other").write_text("")
    modes = {path.stat().st_mode for path in (*(inputs / "model").iterdir(), tmp_path / "other")}
    assert len(modes) == 1


@pytest.mark.parametrize("name", [".", "there"])
def test_a_folder_is_not_replaced_by_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is a folder"), atomic_path(name):
        raise AssertionError("nothing should be computed for it")


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(os, "fork"), reason="mounting needs root")
def test_a_disk_that_is_really_full(inputs, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    try:
        (disk / "filler").write_bytes(bytes(8192))
        run = {"steps": 100, "interval": 1, "progress": False}
        with pytest.raises(InputError, match="No space left on device"):
            run_md(TransIPCalculator(inputs / "model"), inputs / "in.extxyz", disk / "o.xyz", **run)
        assert visible(disk) == ["filler", "o.partial.xyz"] and hidden(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (lambda: write_text(pipe, "text"), lambda: output_lock(pipe).__enter__()):
        with pytest.raises(InputError, match="no ordinary file"):
            write()
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_what_a_link_points_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "real.txt")
    for text in ("first", "second"):
        with output_lock(tmp_path / "link.txt"):
            write_text(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "there" / "real.txt").read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_trajectory_that_could_not_get_its_name_is_not_begun(inputs, tmp_path):
    calculator = TransIPCalculator(inputs / "model")
    (tmp_path / "out.xyz").mkdir()
    for output, problem in ((tmp_path / "out.xyz", "is a folder"), (tmp_path / "out.traj", "going to be an extxyz")):
        with pytest.raises(InputError, match=problem):
            run_md(calculator, inputs / "in.extxyz", output, steps=10**9, progress=False)
    assert len(list(tmp_path.iterdir())) == 1
