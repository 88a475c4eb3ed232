"""Extras are read from the distribution's metadata; another project's `transip` in the same folder is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import transip
from commands import call
from transip.errors import InputError
from transip.extras import check_name_clash, extras
from transip.inference.ase import TransIPCalculator


def install(site: Path, name: str, *lines: str, files: tuple[str, ...] = ()) -> None:
    """What pip would leave of a distribution: its metadata and the list of its files."""
    folder = site / f"{name.replace('-', '_')}-9.9.dist-info"
    folder.mkdir()
    header = ("Metadata-Version: 2.4", f"Name: {name}", "Version: 9.9")
    (folder / "METADATA").write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
    (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, searched first, in which this package lies."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "transip").symlink_to(Path(transip.__file__).parent)
    check_name_clash.cache_clear()
    yield tmp_path
    check_name_clash.cache_clear()


def test_another_projects_files_in_the_same_folder_are_an_error(site, capsys):
    install(site, "transip", files=("transip/__init__.py", "transip/client.py"))
    with pytest.raises(InputError, match=r"`transip` 9\.9, an unrelated project") as caught:
        TransIPCalculator("transip-s-gfn2")
    assert "pip uninstall transip transip-potentials" in caught.value.remedy
    assert call("info") == 2
    assert "unrelated project" in capsys.readouterr().err


@pytest.mark.parametrize("files", [(), ("transip-9.9.dist-info/METADATA", "elsewhere/transip/__init__.py")])
def test_a_distribution_of_that_name_elsewhere_does_no_harm(site, files):
    install(site, "transip", files=files)
    check_name_clash()


def test_extras_are_those_of_the_metadata(site):
    install(
        site,
        "transip-potentials",
        "Requires-Dist: numpy>=2",
        "Requires-Dist: numpy>=2; extra == 'here'",
        "Requires-Dist: no-such-package; extra == 'half'",
        "Requires-Dist: numpy; extra == 'half'",
        "Requires-Dist: pytest; extra == 'dev'",
    )
    assert extras() == {"here": True, "half": False}
