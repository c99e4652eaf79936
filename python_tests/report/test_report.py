"""The report shows what runs hold, needs no network, escapes all text, refuses broken runs."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dom2_fast.errors import Dom2Error
from dom2_fast.report import figures, write_report
from dom2_fast.report.load import Run, load_runs, read_metrics
from dom2_fast.report.panels import panels
from dom2_fast.report.scene import scene

STAGES = {"seconds/sample": 0.001, "seconds/critic": 0.01, "seconds/actor": 0.02}


def result(mean, **more):
    return {
        "mean": mean,
        "ci95": [mean - 5, mean + 5],
        "iqm": mean - 1,
        "std": 20.0,
        "episodes": 500,
        "normalised": (mean - 159.8) / 3.57,
        "normalised_ci95": [1.0, 2.0],
        **more,
    }


def make_run(folder, algo="dom2", mean=300.0, eta=1.0, steps=100):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"algo: {algo}\nenv: simple_spread\ndata: some/data\nconfig: {{eta: {eta}, hidden: 256}}\n"
    )
    rows = [{"step": s, "loss/bc": 1.0 / s, "q/data": None, **STAGES} for s in range(1, steps + 1)]
    rows += [{"step": s, "eval/return": mean - 50 + s} for s in (50, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {
        "format": 1,
        "algo": algo,
        "env": "simple_spread",
        "data": "some/data",
        "step": steps,
        "results": {"standard": result(mean), "shift_speed": result(mean - 60, v_min=0.3)},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    states = np.zeros((26, 6, 4))
    states[:, 0, 0] = np.linspace(-1, 1, 26)
    np.savez(
        folder / "rollout.npz",
        states=states,
        sizes=np.array([0.15] * 3 + [0.05] * 3),
        kinds=np.array(["agent"] * 3 + ["landmark"] * 3),
        task="simple_spread",
    )
    return folder


class Page(HTMLParser):
    """Checks that tags nest, and gathers text, links and inline data."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.stack, self.text, self.links, self.ids = [], [], [], []
        self.scripts = {}
        self.feed(text)
        assert self.stack == []
        self.plain = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attrs.items() if k == "id"]
        if tag not in self.VOID:
            self.stack.append((tag, attrs.get("id")))

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, (tag, self.stack[-3:])
        self.stack.pop()

    def handle_data(self, data):
        tag, name = self.stack[-1] if self.stack else ("", None)
        if tag == "script":
            self.scripts[name] = data
        elif tag != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "a", mean=356.2), make_run(root / "b", algo="bc", mean=281.4, eta=0.0)]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    path = write_report(runs, out, title="A title", reference={"data set": 273.4})
    assert path == out / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_page_says_what_the_runs_scored(page):
    assert "A title" in page.plain
    assert "Standard: a has the highest mean, 356.2; its 95 % interval lies above that of b" in (
        page.plain
    )
    for text in ("351.2 to 361.2", "296.2", "221.4", "355.2", "55.0", "data set 273.4"):
        assert text in page.plain
    assert "speed shift" in page.plain and "31.00 ms" in page.plain


def test_page_needs_no_network_and_its_ids_are_unique(page):
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    used = {link[1:] for link in page.links}
    assert used <= set(page.ids)  # markers and clip paths of the plots exist


def test_page_has_the_sections_curves_and_settings(page):
    for title in (
        "Scores",
        "Score intervals",
        "A recorded episode",
        "Learning curves",
        "Time of one update",
        "Settings",
        "Where and when",
    ):
        assert title in page.plain
    assert "evaluation return" in page.plain and "denoising loss" in page.plain
    assert "Q of the data's actions" not in page.plain  # logged as null only
    settings = page.plain[page.plain.index("Where the runs' settings differ") :]
    differing = settings[: settings.index("All ")]
    assert "config.eta" in differing and "algo" in differing and "config.hidden" not in differing
    assert "config.hidden" in settings


def test_animation_data_holds_the_recorded_positions(page):
    scenes = json.loads(page.scripts["rollout-data"])
    assert [made["name"] for made in scenes] == ["a", "b"]
    assert len(scenes[0]["states"]) == 26
    assert scenes[0]["states"][25][0] == [1.0, 0.0]
    assert [entity["label"] for entity in scenes[0]["entities"]] == ["1", "2", "3", "", "", ""]


def test_colours_come_from_the_page_not_from_the_plots(runs):
    svg = figures.score_intervals(load_runs(runs), {"data set": 273.4})
    assert re.findall(r"#[0-9a-fA-F]{6}", svg) == []
    assert "var(--s0)" in svg and "var(--s1)" in svg and "var(--ink)" in svg


def test_overlapping_intervals_are_called_so(tmp_path):
    runs = [make_run(tmp_path / "a", mean=300.0), make_run(tmp_path / "b", mean=296.0)]
    text = Page(write_report(runs, tmp_path / "r.html").read_text()).plain
    assert "its 95 % interval overlaps the one of b (296.0)" in text


def test_every_text_is_escaped(tmp_path):
    evil = "<img src=x onerror=alert(1)>&</script>"
    run = make_run(tmp_path / evil.replace("/", "|"))
    (run / "config.yaml").write_text(f"algo: dom2\nenv: '{evil}'\ndata: '{evil}'\n'{evil}': 1\n")
    path = write_report([run], tmp_path / "r.html", title=evil, note=evil, reference={evil: 1.0})
    text = path.read_text(encoding="utf-8")
    assert "<img" not in text
    assert Page(text).plain.count("onerror=alert(1)") >= 6


def test_a_run_without_scores_logs_or_recording_still_has_a_page(tmp_path):
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.yaml").write_text("algo: bc\n")
    text = Page(write_report([run], tmp_path / "out").read_text()).plain
    assert "None of these runs has been evaluated" in text
    assert "Learning curves" not in text


def test_an_old_report_is_replaced_and_a_failed_one_keeps_it(tmp_path):
    run = make_run(tmp_path / "a")
    path = write_report([run], tmp_path / "out", title="first")
    with pytest.raises(Dom2Error):
        write_report([run, tmp_path / "absent"], tmp_path / "out")
    assert "first" in path.read_text()
    write_report([run], tmp_path / "out", title="second")
    assert "second" in path.read_text()


def test_a_file_of_the_user_is_not_replaced(tmp_path):
    (tmp_path / "thesis.html").write_text("<html>years of work")
    with pytest.raises(Dom2Error, match=r"thesis\.html is there and no report"):
        write_report([make_run(tmp_path / "a")], tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "<html>years of work"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scores.json", "{", r"scores\.json is not a scores file.*dom2-fast evaluate"),
        ("scores.json", '{"results": {"standard": {"mean": 1}}}', r"not a scores file"),
        ("rollout.npz", "PK no zip", r"rollout\.npz is not a recorded episode"),
        ("metrics.jsonl", 'nonsense\n{"step": 1}\n', r"metrics\.jsonl, line 1: not a log entry"),
        ("config.yaml", "a: [", r"config\.yaml, line \d+: not valid YAML"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content, message):
    run = make_run(tmp_path / "a")
    (run / file).write_text(content)
    with pytest.raises(Dom2Error, match=message):
        write_report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(Dom2Error, match="no run folder"):
        write_report([tmp_path / "absent"], tmp_path / "out")
    with pytest.raises(Dom2Error, match=r"holds no config\.yaml"):
        write_report([tmp_path], tmp_path / "out")
    with pytest.raises(Dom2Error, match="no run given"):
        write_report([], tmp_path / "out")
    run = make_run(tmp_path / "a")
    with pytest.raises(Dom2Error, match="given twice"):
        write_report([run, run], tmp_path / "out")


def test_runs_of_one_name_are_told_apart(tmp_path):
    names = [run.name for run in load_runs([make_run(tmp_path / f"{x}/a") for x in ("p", "q")])]
    assert names == ["p/a", "q/a"]


def test_metrics_of_a_cut_off_run_are_read_up_to_the_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 2, "b": 3}\n{"step": 3, "a"'
    )
    assert read_metrics(path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2, "b": 3}]


def test_scene_checks_the_recording(tmp_path):
    run = Run("a", tmp_path, rollout={"states": np.zeros((26, 4, 4)), "sizes": [0.1] * 3})
    with pytest.raises(Dom2Error, match="lacks kinds"):
        scene(run)
    run.rollout["kinds"] = ["agent"] * 3
    with pytest.raises(Dom2Error, match="don't fit"):
        scene(run)
    run.rollout = {"states": np.full((26, 1, 4), np.nan), "sizes": [0.1], "kinds": ["agent"]}
    with pytest.raises(Dom2Error, match="isn't finite"):
        scene(run)


def test_scene_joins_what_the_recording_links(tmp_path):
    rollout = {
        "states": np.zeros((2, 3, 4)),
        "sizes": [0.1] * 3,
        "kinds": ["torso"] + ["joint"] * 2,
    }
    run = Run("a", tmp_path, rollout=rollout)
    assert scene(run)["links"] == []
    rollout["links"] = np.array([[0, 1], [1, 2]])
    made = scene(run)
    assert made["links"] == [[0, 1], [1, 2]] and made["caption"] == "1 torso, 2 joints"
    for wrong in ([[0, 3]], [[-1, 0]], [0, 1], [[0.5, 1.0]]):
        rollout["links"] = np.array(wrong)
        with pytest.raises(Dom2Error, match=r"pairs .* of entities 0 to 2"):
            scene(run)


def test_scene_names_prey_and_landscape(tmp_path):
    kinds = ["predator"] * 3 + ["prey", "obstacle", "food", "forest"]
    made = scene(
        Run(
            "w",
            tmp_path,
            rollout={"states": np.zeros((2, 7, 4)), "sizes": [0.1] * 7, "kinds": kinds},
        )
    )
    assert [entity["label"] for entity in made["entities"]] == ["1", "2", "3", "prey", "", "", ""]
    assert made["caption"] == "3 predators, 1 prey, 1 obstacle, 1 food, 1 forest"


def logged(folder, algo, rows):
    """A run of which only the log is looked at."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"algo: {algo}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_runs([folder])[0]


def test_what_an_unknown_algorithm_logged_is_drawn_by_its_keys(tmp_path):
    times = {"rate": 9.0, "seconds/dream": 0.002, "seconds/wake": 0.001}
    score = {"eval/return": 3.0, "eval/low": 1.0}
    rows = [{"step": s, "gap/own": 1.0 / s, **score, **times} for s in (1, 2, 3)]
    run = logged(tmp_path / "r", "sarsa", rows)
    assert panels([run]) == [("eval/return", "evaluation return"), ("gap/own", "gap/own")]
    assert figures.stages([run]) == ["dream", "wake"]
    assert figures.stage_milliseconds(run) == {"dream": 2.0, "wake": 1.0}
    text = Page(write_report([tmp_path / "r"], tmp_path / "out").read_text()).plain
    assert "gap/own" in text and "dream" in text and "3.00 ms" in text


def test_an_algorithm_names_and_orders_what_it_logs(tmp_path):
    rows = [{"step": s, "q/data": 1.0, "loss/bc": 2.0} for s in (1, 2)]
    run = logged(tmp_path / "r", "dom2", rows)
    assert panels([run]) == [("loss/bc", "denoising loss"), ("q/data", "Q of the data's actions")]


def test_scores_and_recordings_of_an_unknown_environment(tmp_path):
    """Raw scores without normalised ones; a recording that nobody here knows isn't played back."""
    run = make_run(tmp_path / "a")
    scores = json.loads((run / "scores.json").read_text())
    raw = {"mean": -3.5, "ci95": [-4.0, -3.0]}
    scores |= {"env": "my_module:make_env", "results": {"standard": raw, "shift_ice": raw}}
    (run / "scores.json").write_text(json.dumps(scores))
    np.savez(run / "rollout.npz", joints=np.zeros((5, 12)))
    page = Page(write_report([run], tmp_path / "out").read_text())
    minus, none = "\N{MINUS SIGN}", "\N{EN DASH}"
    assert f"{minus}3.5 {minus}4.0 to {minus}3.0 {none} {none} {none} 100" in page.plain
    assert "Ice shift" in page.plain and "my_module:make_env" in page.plain
    assert "rollout-data" not in page.scripts and "A recorded episode" not in page.plain
