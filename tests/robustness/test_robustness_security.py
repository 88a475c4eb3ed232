"""Files of strangers: no code in them is run, no name in them leads out of its folder, no text in them is markup."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
import yaml

from toy import toy_structure, write_toy_pack
from transip.config import LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.info import summarize
from transip.data.pack import pack_files
from transip.data.read import read_structures
from transip.data.store import Pack
from transip.errors import InputError
from transip.evaluation.result import Evaluation
from transip.evaluation.saved import evaluate_checkpoint
from transip.labels.chunks import Chunk
from transip.model.files import load_model
from transip.report.describe import describe_model
from transip.report.page import write_report
from transip.symmetry.latent import load_latent
from transip.training.checkpoint import load_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden/model-format-1"
MARKUP = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">[/red]"


class Bomb:
    """Whatever unpickles it leaves a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (Path.write_text, (self.trace, "boom"))


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    return Bomb(tmp_path / "exploded")


def all_structures(path: Path) -> None:
    list(read_structures(path, labels="optional"))


def planted_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, Bomb], object]:
    """The pickle itself, as `torch.save` wraps it, and in a compressed archive, under the name of a file we read."""

    def plant(folder: Path, bomb: Bomb) -> None:
        path = folder / name
        for write in (
            lambda: path.write_bytes(pickle.dumps(bomb)),
            lambda: torch.save({"state_dict": bomb}, path),
            lambda: np.savez(path.open("wb"), a=np.array([bomb], dtype=object)),
            lambda: path.write_bytes(zlib.compress(pickle.dumps(bomb))),
        ):
            write()
            with pytest.raises(InputError):
                read(path)

    return plant


def in_an_ase_database(folder: Path, bomb: Bomb) -> None:
    """Where ASE keeps blobs and trees."""
    for column in ("data", "key_value_pairs", "numbers", "calculator_parameters", "constraints"):
        path = folder / f"{column}.db"
        with ase.db.connect(path, use_lock_file=False) as database:
            database.write(toy_structure(0).to_atoms(), data={"charge": 0, "spin": 1})
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE systems SET {column} = ?", (pickle.dumps(bomb),))
        connection.close()
        if column in ("calculator_parameters", "constraints"):  # not even looked at
            all_structures(path)
        else:
            with pytest.raises(InputError):
                all_structures(path)


def in_an_aselmdb(folder: Path, bomb: Bomb) -> None:
    lmdb = pytest.importorskip("lmdb")
    for packed in (pickle.dumps(bomb), zlib.compress(pickle.dumps(bomb))):
        path = folder / f"{len(packed)}.aselmdb"
        with (
            lmdb.open(str(path), subdir=False, map_size=2**20, lock=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(b"1", packed)
            transaction.put(b"nextid", zlib.compress(b"2"))
        with pytest.raises(InputError):
            all_structures(path)


def in_a_pack(folder: Path, bomb: Bomb) -> None:
    sound = write_toy_pack(folder / "sound.pack", 3)
    for file in sorted(sound.iterdir()):
        for content in ("object array", "archive", "pickle"):
            pack = shutil.copytree(sound, folder / f"{file.stem}-{content}.pack")
            with (pack / file.name).open("wb") as handle:
                if content == "object array":
                    np.save(handle, np.array([bomb] * 3, dtype=object), allow_pickle=True)
                elif content == "archive":
                    np.savez(handle, np.array([bomb] * 3, dtype=object), allow_pickle=True)
                else:
                    pickle.dump(bomb, handle)
            with pytest.raises(InputError):
                Pack.open(pack)


def in_a_model(folder: Path, bomb: Bomb) -> None:
    for name in ("model.safetensors", "config.json", "latent.safetensors", "latent.json"):
        for save in (pickle.dump, torch.save):
            model = shutil.copytree(GOLDEN, folder / f"{name}-{save.__module__}")
            with (model / name).open("wb") as handle:
                save(bomb, handle)
            with pytest.raises(InputError):
                load_latent(model, load_model(model).settings)


def in_a_checkpoint(folder: Path, bomb: Bomb) -> None:
    for save in (pickle.dump, torch.save):
        with (folder / "00000005.safetensors").open("wb") as handle:
            save({"step": 5, "model": bomb}, handle)
        with pytest.raises(InputError), pytest.warns(match="falling back"):
            load_checkpoint(folder)


def in_an_evaluation(folder: Path, bomb: Bomb) -> None:
    metrics = dict.fromkeys(
        ("energy_mae", "energy_mae_per_atom", "energy_rmse_per_atom", "force_mae", "force_rmse"), 0.0
    ) | dict.fromkeys(("force_cosine", "force_magnitude_error", "efwt", "structures", "atoms"), 0.0)
    sections = {"format": 1, "overall": metrics, "domains": {}, "symmetry": None, "cost": {}}
    (folder / "evaluation.json").write_text(json.dumps(sections))
    objects = np.array([bomb], dtype=object)
    with (folder / "predictions.npz").open("wb") as handle:
        np.savez(handle, ids=objects, natoms=objects, allow_pickle=True)
    with pytest.raises(InputError, match=r"predictions\.npz"):
        Evaluation.read(folder)


PLACES = {
    **{f"a file {name}": planted_file(name, all_structures) for name in ("x.extxyz", "x.xyz", "x.db", "x.json")},
    "a file x.aselmdb": planted_file("x.aselmdb", all_structures),
    "a trajectory": planted_file("x.traj", all_structures),
    "a recipe": planted_file("x.yaml", lambda path: load(Recipe, path)),
    "a chunk of labels": planted_file("x.npz", Chunk.load),
    "a model file": planted_file("model.pt", load_model),
    "an ASE database": in_an_ase_database,
    "an aselmdb": in_an_aselmdb,
    "a pack": in_a_pack,
    "a model": in_a_model,
    "a checkpoint": in_a_checkpoint,
    "an evaluation": in_an_evaluation,
}


@pytest.mark.parametrize("plant", PLACES.values(), ids=PLACES)
def test_no_pickle_is_ever_opened(plant, bomb, tmp_path):
    (tmp_path / "place").mkdir()
    plant(tmp_path / "place", bomb)
    assert not bomb.trace.exists()


def test_the_bomb_is_a_bomb(bomb):
    pickle.loads(pickle.dumps(bomb))
    assert bomb.trace.exists()


# ---------------------------------------------------------------------------------------------- code and names


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch TRACE']",
        "name: !!python/object/new:subprocess.Popen [[touch, TRACE]]",
        "name: !!python/name:os.system",
        "data: !!python/module:os",
    ],
)
def test_a_recipe_names_no_code(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text.replace("TRACE", str(tmp_path / "TRACE")))
    for kind in (Recipe, LabelSettings):
        with pytest.raises(InputError, match="is not YAML"):
            load(kind, tmp_path / "x.yaml")
    with pytest.raises(InputError, match="is not YAML"):
        (tmp_path / "y.yaml").write_text("name: x")
        load(Recipe, tmp_path / "y.yaml", [f"name={text.partition(': ')[2] or text}", "data=!!python/name:os.system"])
    assert not (tmp_path / "TRACE").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/b", "..", "", "a\\b", "a\0b"])
def test_the_name_of_a_run_is_no_path(name, tmp_path):
    recipe = {"name": name, "data": {"train": ["a.pack"]}, "training": {"steps": 1}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="cannot be that of a folder"):
        load(Recipe, tmp_path / "x.yaml")


def test_a_pack_names_no_files_of_others(tmp_path):
    pack = write_toy_pack(tmp_path / "x.pack", 3)
    meta = json.loads((pack / "meta.json").read_text())
    (pack / "meta.json").write_text(json.dumps(meta | {"sha256": meta["sha256"] | {"../../etc/passwd": "0"}}))
    Pack.open(pack).verify()  # looks at its own columns alone
    del meta["sha256"]["energy.npy"]
    (pack / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="checksum"):
        Pack.open(pack).verify()


def test_an_archive_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("../escaped.npy", "x")
        archive.writestr("/escaped.npy", "x")
    with pytest.raises(InputError):
        Chunk.load(tmp_path / "x.npz")
    assert sorted(path.name for path in tmp_path.parent.rglob("*escaped*")) == []


def test_a_database_runs_no_sql_of_its_own(tmp_path):
    """A view in the place of the table would be asked, and could count for ever."""
    path = tmp_path / "x.db"
    with ase.db.connect(path, use_lock_file=False) as database:
        database.write(toy_structure(0).to_atoms(), data={"charge": 0, "spin": 1})
    with sqlite3.connect(path) as connection:
        columns = ", ".join(row[1] for row in connection.execute("PRAGMA table_info(systems)"))
        connection.execute("ALTER TABLE systems RENAME TO kept")
        count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
        connection.execute(f"CREATE VIEW systems AS SELECT {columns} FROM kept, ({count})")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not an ASE database"):
        all_structures(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_the_source_names_nothing_that_runs_data():
    """`pickle`, `torch.load`, `eval` and friends are nowhere in the package: what is not there cannot be reached."""
    dangerous = (
        "pickle.load",
        "torch.load(",
        " eval(",
        "exec(",
        "yaml.load(",
        "allow_pickle=True",
        "shell=True",
        "marshal",
    )
    package = Path(sys.modules["transip"].__file__).parent
    for path in package.rglob("*.py"):
        found = [word for word in dangerous if word in path.read_text(encoding="utf-8")]
        assert not found, f"{path}: {found}"


# ---------------------------------------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a run on molecules whose domain and identifier are markup, from an extxyz file on."""
    folder = tmp_path_factory.mktemp("marked")
    frames = []
    for number in range(6):
        structure = toy_structure(number)
        atoms = structure.to_atoms()
        atoms.info |= {"data_id": MARKUP, "source": f"{number} {MARKUP}", "REF_energy": structure.energy}
        atoms.arrays["REF_forces"] = structure.forces
        frames.append(atoms)
    with ase.db.connect(folder / "x.json", use_lock_file=False) as database:
        for atoms in frames:
            database.write(atoms, data=atoms.info | {"REF_forces": atoms.arrays["REF_forces"]})
    pack_files([folder / "x.json"], folder / "x.pack", level_of_theory=MARKUP)
    model = shutil.copytree(GOLDEN, folder / "model <script>document.title='taken'<")
    evaluate_checkpoint(model, [folder / "x.pack"]).write(model)
    return write_report([model], folder / "report.html")


class Tags(HTMLParser):
    """Elements and handlers of a page, and its text outside of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_markup_in_data_is_text_in_the_report(marked):
    text = marked.read_text(encoding="utf-8")
    page = Tags(text)
    assert page.tags.count("script") == 3 and page.handlers == []  # the data, the viewer, its controls
    assert "&lt;script&gt;document.title" in text


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_the_markup_and_does_not_run_it(marked, tmp_path):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    shown = subprocess.run([*command, marked.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    title = shown[shown.index("<title>") : shown.index("</title>")]
    assert "taken" not in title.replace("document.title='taken'", "") and "<title>" in title
    assert "&lt;script&gt;document.title" in shown  # the domain, in a table
    assert "onerror" not in Tags(shown).handlers
    assert "<option" in shown and "&lt;img" in shown  # the viewer has run, and names structures in its selector


def test_markup_in_data_is_text_in_the_terminal(marked, capsys):
    from rich.console import Console

    for table in (summarize(marked.parent / "x.pack").table(), describe_model(GOLDEN)):
        Console(width=500).print(table)
    assert "[/red]" in capsys.readouterr().out


def test_control_characters_reach_neither_messages_nor_names(tmp_path):
    escape = "\x1b]0;taken\x07\x1b[2J"
    rows = {"1": {"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.7]], "data": {"charge": 0, "spin": 1}}}
    rows["1"]["data"] |= {"source": f"a\n{escape}\ud800b", escape: 1}
    (tmp_path / "x.json").write_text(json.dumps(rows | {"ids": [1], "nextid": 2}))
    (found,) = read_structures(tmp_path / "x.json", labels="optional")
    assert found.source.isprintable() and found.source.startswith("a") and found.source.endswith("b")
    with pytest.raises(InputError) as caught:
        list(read_structures(tmp_path / "x.json"))  # lists the keys that exist
    assert "\x1b" not in str(caught.value) and "taken" in str(caught.value)


def test_labels_of_strangers_keep_their_numbers(marked):
    """That the pack of the tests above holds what went in."""
    dataset = Dataset.open([marked.parent / "x.pack"])
    energies = [dataset[i].energy for i in range(len(dataset))]
    assert energies == pytest.approx([toy_structure(i).energy for i in range(6)])
