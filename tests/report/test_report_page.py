import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_runs import make_dataset, make_run
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.report.page import write_report
from transip.report.plots import relative_energies
from transip.report.runs import read_run
from transip.report.viewer import safe_json, viewer_data


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        if tag == "script":
            self.scripts.append("")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(runs, tmp_path_factory.mktemp("page") / "report.html"))


def test_the_page_loads_nothing_from_anywhere(runs: list[Path], page: Page, tmp_path: Path) -> None:
    assert page.links  # the navigation, at least
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    html = write_report(runs, tmp_path / "report.html").read_text()
    assert "default-src 'none'" in html  # and the browser holds it to that
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL))
    assert "@import" not in styles and "url(" not in styles


def test_the_page_shows_runs_side_by_side(runs: list[Path], page: Page) -> None:
    for run in runs:
        assert run.name in page.text
    for heading in ("Summary", "Learning curves", "Learned symmetry", "Structures and forces", "Recipes"):
        assert heading in page.text
    assert "control: two views (random rotations)" in page.text
    assert "latent loss, atoms, weight 1" in page.text
    force_mae = read_run(runs[0]).metrics["force_mae"]
    assert f"{1e3 * force_mae:.1f}" in page.text
    assert f"MAE {1e3 * force_mae:.1f} meV/Å" in page.text  # in the parity plot
    assert len(page.ids) == len(set(page.ids))


def test_errors_of_charges_and_dipoles_stand_where_there_are_labels(page: Page, tmp_path: Path) -> None:
    assert "Charge MAE" not in page.text
    run = make_run(tmp_path / "charged", make_dataset(tmp_path / "c.pack", 12, charged="elytes"), 0.1, {})
    text = Page(write_report([run], tmp_path / "report.html")).text
    for label, value in (("Charge MAE (10⁻³ e)", "20.0"), ("Dipole MAE (D)", "2.402")):
        assert text.count(label) == 2 and text.count(value) == 2  # overall, and of one domain of three


def test_caveats_tell_of_the_gain_the_compute_and_what_is_not_evaluated(page: Page) -> None:
    assert re.search(r"is \d+\.\d% below that of the best control, two-views", page.text)
    assert "forward passes differ by a factor of 1.33" in page.text
    assert "Not evaluated yet: one-view-unfinished" in page.text


def test_the_viewer_shows_reference_and_predicted_forces(runs: list[Path], page: Page) -> None:
    data = json.loads(page.scripts[0])
    assert data == viewer_data([read_run(run) for run in runs])
    assert set(data["runs"]) == {"0", "1"}
    for structure in data["structures"]:
        assert len(structure["symbols"]) == len(structure["positions"]) == len(structure["forces"])
        assert set(structure["predicted"]) == {"0", "1"}
    arrays = read_run(runs[0]).evaluation.predictions  # type: ignore[union-attr]
    error = np.abs(arrays["forces"] - arrays["reference_forces"]).sum(1)
    per_atom = np.add.reduceat(error, np.cumsum(arrays["natoms"]) - arrays["natoms"]) / arrays["natoms"]
    assert data["structures"][0]["id"] == arrays["ids"][per_atom.argmax()]


def test_names_from_data_stay_text(dataset: Dataset, tmp_path: Path) -> None:
    attack = "<script>alert(1)<&script>$x^2$\"'"
    run = make_run(tmp_path / attack, dataset, 0.1, {})
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["domains"] = {attack: evaluation["overall"], "</style><img src=x>": evaluation["overall"]}
    evaluation["cost"]["hardware"] = evaluation["cost"]["versions"]["torch"] = "</table><script src=evil.js>"
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    arrays = dict(np.load(run / "predictions.npz"))
    arrays["ids"] = np.array(["</script><script>alert(2)//"] * len(arrays["ids"]))
    arrays["domain"] = np.array(["<!--<script>"] * len(arrays["ids"]))
    np.savez(run / "predictions.npz", **arrays)
    (run / "recipe.yaml").write_text("name: '</pre><script>alert(3)</script>'\n")
    page = Page(write_report([run, run], tmp_path / "report.html"))
    assert len(page.scripts) == 3  # the data, the viewer, its controls
    assert json.loads(page.scripts[0])["structures"][0]["id"] == "</script><script>alert(2)//"
    assert attack in page.text
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert page.handlers == []


@settings(deadline=None)
@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_json_in_a_script_cannot_leave_it(value: object) -> None:
    text = safe_json(value)
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_a_run_with_a_log_alone_is_shown(runs: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(runs[2:], tmp_path / "report.html"))
    assert "Learning curves" in page.text
    assert "Structures and forces" not in page.text
    assert page.scripts == []


def test_an_evaluation_without_a_log_is_shown(runs: list[Path], tmp_path: Path) -> None:
    for name in ("evaluation.json", "predictions.npz"):
        (tmp_path / name).write_bytes((runs[0] / name).read_bytes())
    page = Page(write_report([tmp_path], tmp_path / "report.html"))
    assert "Structures and forces" in page.text
    assert "Learning curves" not in page.text


@pytest.mark.parametrize("tail", ['{"kind": "tra', '{"kind": "train", "step": 10', ""])
def test_a_torn_last_line_is_ignored(tail: str, runs: list[Path], tmp_path: Path) -> None:
    log = (runs[2] / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(log + tail)
    found, expected = read_run(tmp_path), read_run(runs[2])
    assert found.training == expected.training
    assert found.validation == expected.validation


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"kind": "train", "step": 1}\nnonsense\n{}\n', "metrics.jsonl, line 2"),
        ("metrics.jsonl", "[]\n", "metrics.jsonl, line 1"),
        ("recipe.yaml", "name: [", "recipe.yaml"),
        ("recipe.yaml", "- a list", "recipe.yaml"),
        ("evaluation.json", "{", "evaluation.json"),
    ],
)
def test_corrupt_files_are_named_and_no_page_is_written(
    name: str, content: str, message: str, runs: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text((runs[2] / "metrics.jsonl").read_text())
    (run / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no run is given"):
        write_report([], tmp_path / "report.html")


def test_runs_of_the_same_name_are_told_apart(dataset: Dataset, tmp_path: Path) -> None:
    pair = [make_run(tmp_path / seed / "run", None, 0.1, {}) for seed in ("a", "b")]
    page = Page(write_report(pair, tmp_path / "report.html"))
    for run in pair:
        assert str(run) in page.text


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.sampled_from([1, 6, 8]), min_size=1, max_size=6), min_size=4, max_size=12))
def test_energies_that_composition_explains_vanish(molecules: list[list[int]]) -> None:
    numbers, counts = np.concatenate(molecules), np.array([len(m) for m in molecules])
    total = np.array([sum(-13.6 * z**2 for z in m) for m in molecules])
    shifted = total + 0.3 * counts
    true, found = relative_energies(numbers, counts, total, shifted)
    np.testing.assert_allclose(true, 0, atol=1e-8)
    np.testing.assert_allclose(found, 0.3, atol=1e-8)


def test_a_run_without_a_latent_run_beside_it_is_no_control(runs: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(runs[1:2], tmp_path / "report.html"))
    assert "two views (random rotations)" in page.text and "control" not in page.text
    assert "invariant share" not in page.text


def test_losses_are_those_of_the_log(runs: list[Path], page: Page, tmp_path: Path) -> None:
    assert "Latent loss" in page.text and "Equigrad loss" not in page.text  # which is 0 throughout
    (tmp_path / "metrics.jsonl").write_text((runs[0] / "metrics.jsonl").read_text().replace("latent_loss", "my_loss"))
    assert "My loss" in Page(write_report([tmp_path], tmp_path / "report.html")).text


def test_the_page_says_what_a_good_number_would_be(runs: list[Path], page: Page) -> None:
    arrays = read_run(runs[0]).evaluation.predictions  # type: ignore[union-attr]
    assert f"force MAE of {1e3 * np.abs(arrays['reference_forces']).mean():,.1f} meV/Å on these" in page.text
    assert "The packaged model transip-" in page.text


def test_a_single_layer_is_a_bar_and_few_points_are_not_zoomed_into(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["symmetry"]["layers"] = [{"layer": 2, "invariant_share": 0.5, "latent_error": 0.4}]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    text = Page(write_report([run], tmp_path / "report.html")).text
    assert "Invariant share, layer 3" in text and "Latent error, relative, layer 3" in text
