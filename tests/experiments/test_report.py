"""Reports: what they read, what they refuse, and pages that hostile text cannot break."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import html.parser
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tolerances import tolerance

from codejax.experiments import figures
from codejax.experiments.compression import Compression
from codejax.experiments.curves import MAX_POINTS, running_mean, smooth_rate, spread, thin
from codejax.experiments.drawing import INK, SERIES
from codejax.experiments.figures import draw_figures
from codejax.experiments.record import RunRecord, read_run
from codejax.experiments.report import report
from codejax.pages import markup
from codejax.pages.spelling import clock, short
from codejax.recipe import dumps, spec

HOSTILE = '</mark></pre><script src="https://x.test/a.js">$x_1$&\'\x1b[31m\u202e\ud800\r\0'


@spec
class Run:
    """Stands for a training recipe."""

    name: str
    learning_rate: float = 3e-4
    compression: Compression = Compression()

    def run(self, workdir: Any) -> int:
        return 0


def make_run(folder: pathlib.Path, *, name: str = "one", steps: int = 40, **fields: Any):
    """A work folder with everything that a report can show."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "time": 1e9 + step, "kind": "train", "loss": 5 / step, "mfu": 0.4}
        lines.append(line | {"tokens_per_second": 900.0, "tokens": 100, "seconds": 0.5})
        if step % 10 == 0:
            bits = {"bits_per_byte": 2.0, "bits_per_byte/python": 1.9, "bits_per_byte/c": 2.5}
            lines.append({"step": step, "time": 1e9 + step, "kind": "held_out"} | bits)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(dumps(Run(name=name, **fields)))
    start = {"commit": {"id": "abc123", "dirty": True}, "command": "codejax run x", "jax": "0.10"}
    (folder / "run.json").write_text(json.dumps({"starts": [start]}))
    size = {"num_files": 3, "num_bytes": 1000}
    measured = [
        {"compressor": "xz", "mode": mode, "settings": "9e", "compressed_bytes": 250, "seconds": 1}
        for mode in ("per_file", "solid", "primed")
    ]
    sample = {"title": "f", "note": "n", "prefix": "def f():\n", "generated": "  x", "truth": "  y"}
    results = {
        "model": {"parameters": 1234567, "parameter_bytes": 4938268},
        "held_out": {
            **size,
            "bits_per_byte": 1.75,
            "languages": {"c": {**size, "bits_per_byte": 2}},
        },
        "compression": {**size, "primer_bytes": 5, "measured": measured},
        "samples": [sample],
        "data": {"fingerprint": "f00d", "files": 12345},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def make_diverged(folder: pathlib.Path, **fields: Any) -> pathlib.Path:
    """As `make_run`, with three steps more whose losses are no numbers."""
    run = make_run(folder, **fields)
    with (run / "metrics.jsonl").open("a") as file:
        for step, loss in ((41, "NaN"), (42, "Infinity"), (43, '"-inf"')):
            file.write(f'{{"step": {step}, "kind": "train", "loss": {loss}}}\n')
    return run


class Reader(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, what they refer to, and its text."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_the_run_and_asks_for_nothing(tmp_path: pathlib.Path):
    index = report([make_run(tmp_path / "run")], tmp_path / "report")
    text = index.read_text()
    read = Reader(text)
    assert not read.open
    assert all(reference.startswith("#") for reference in read.references)
    assert not {"script", "link", "iframe", "img"} & set(read.elements)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in html.unescape(text)
    for shown in (
        "1.750",
        "1.23M",
        "id abc123, dirty true",
        "codejax run x",
        "f00d",
        "12,345",
        "1,000",
        "4k",
        "200",
        "learning_rate = 0.0003",
    ):
        assert shown in read.text
    names = {"loss", "held_out", "compression", "tokens_per_second", "mfu"}
    pngs = {path.stem: path.read_bytes() for path in index.parent.glob("*.png")}
    assert set(pngs) == names
    assert all(png.startswith(b"\x89PNG") for png in pngs.values())
    assert read.elements.count("svg") == len(names)


def test_same_run_same_page(tmp_path: pathlib.Path):
    run = make_run(tmp_path / "run")
    pages = [report([run], tmp_path / "report").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def check_hostile_text_stays_text(folder: pathlib.Path) -> None:
    run = make_run(folder / "run", name=HOSTILE)
    results = json.loads((run / "results.json").read_text())
    results["samples"] = [dict.fromkeys((*results["samples"][0], "suffix"), HOSTILE)]
    results["held_out"]["languages"] = {HOSTILE: results["held_out"]["languages"]["c"]}
    results["data"] = {HOSTILE: HOSTILE}
    (run / "results.json").write_text(json.dumps(results))
    evaluation = {"step": 50, "kind": "held_out", f"bits_per_byte/{HOSTILE}": 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(evaluation) + "\n")
    text = report([run, make_run(folder / "other")], folder / "report").read_bytes().decode()
    text += report([run], folder / "report").read_bytes().decode()
    read = Reader(text.replace("</html>\n<!doctype html>", "</html>"))
    assert "script" not in read.elements
    assert not set(read.text) & set("\x1b\0\r\u202e\ud800")
    shown = '</mark></pre><script src="https://x.test/a.js">$x_1$&\'␛[31m��␍␀'
    assert read.text.count(shown) > 10


def test_hostile_text_stays_text(tmp_path: pathlib.Path):
    check_hostile_text_stays_text(tmp_path)


@pytest.mark.parametrize("broken", ["escape", "printable"])
def test_hostile_text_stays_text_mutant(
    broken: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    if broken == "escape":
        monkeypatch.setattr(markup.html, "escape", lambda text: text)
    else:
        monkeypatch.setattr(
            markup, "printable", lambda text: text.encode(errors="replace").decode()
        )
    with pytest.raises(AssertionError):
        check_hostile_text_stays_text(tmp_path)


def test_several_runs_are_compared(tmp_path: pathlib.Path):
    runs = [
        make_run(tmp_path / "a", name="first"),
        make_run(tmp_path / "b", name="second", learning_rate=1e-3),
        make_run(tmp_path / "c", name="third", compression=Compression(zstd_level=3)),
    ]
    text = Reader(report(runs, tmp_path / "report").read_text()).text
    assert "3 runs compared" in text
    assert re.search(r"learning_rate\s*0.0003\s*0.001\s*0.0003", text)
    assert re.search(r"compression.zstd_level\s*19\s*19\s*3", text)
    assert "Where the recipes differ" in text


def test_damaged_lines_are_counted_and_said(tmp_path: pathlib.Path):
    run = make_diverged(tmp_path / "run")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 41, "loss": 1\n[3]\n\xff\xfe\n{"loss": 2}\n{"step": true}\n{"ste')
    assert read_run(run).damaged == 6
    text = Reader(report([run], tmp_path / "report").read_text()).text
    assert "6 damaged lines of the metrics.jsonl of one" in text


def test_a_resumed_run_counts_each_step_once(tmp_path: pathlib.Path):
    run = make_run(tmp_path / "run", steps=5)
    with (run / "metrics.jsonl").open("a") as file:
        for step in (4, 5, 6):
            file.write(json.dumps({"step": step, "kind": "train", "loss": 100.0 + step}) + "\n")
    steps, values = read_run(run).series("train", "loss")
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert values[3:].tolist() == [104, 105, 106]


def check_not_finite_is_left_out(folder: pathlib.Path) -> None:
    diverged, plain = read_run(make_diverged(folder / "a")), read_run(make_run(folder / "b"))
    assert len(diverged.series("train", "loss")[0]) == 43
    are_equal = figures.loss_figure([diverged]) == figures.loss_figure([plain])
    assert are_equal  # and no difference is looked for in two long texts


def test_what_is_not_finite_is_left_out_of_figures(tmp_path: pathlib.Path):
    check_not_finite_is_left_out(tmp_path)


def test_what_is_not_finite_is_left_out_of_figures_mutant(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    kept = lambda values, width: np.nan_to_num(values, posinf=0, neginf=0)  # noqa: E731
    monkeypatch.setattr(figures, "running_mean", kept)
    with pytest.raises(AssertionError):
        check_not_finite_is_left_out(tmp_path)


def test_a_run_that_diverged_is_compared(tmp_path: pathlib.Path):
    """It has its name beside its last loss, and no bar where its bits are no number."""
    run = make_diverged(tmp_path / "a", name="diverged")
    results = (run / "results.json").read_text()
    (run / "results.json").write_text(results.replace("1.75", "NaN"))
    runs = [read_run(run), read_run(make_run(tmp_path / "b", name="other"))]
    loss, compression = figures.loss_figure(runs), figures.compression_figure(runs)
    assert loss is not None
    assert compression is not None
    assert {"diverged", "other"} <= set(re.findall(r">([^<]*)</text>", loss.svg))
    assert "diverged" not in compression.svg
    assert "other" in compression.svg


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "there is no such folder"),
        ({}, "no metrics.jsonl and no results.json"),
        ({"metrics.jsonl": "{\n"}, "1 damaged lines in metrics.jsonl"),
        ({"results.json": "{"}, "results.json is damaged"),
        ({"results.json": "[1]"}, "found list, wanted an object"),
        ({"results.json": '{"a": 1}', "recipe.json": "x"}, "recipe.json is damaged"),
    ],
)
def test_unreadable_folders_are_one_clear_error(
    files: dict[str, str] | None, message: str, tmp_path: pathlib.Path
):
    folder = tmp_path / "run"
    for name, text in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if files == {}:
        folder.mkdir()
    with pytest.raises(ValueError, match=message):
        report([folder], tmp_path / "report")


def test_no_folder_is_an_error(tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match="at least one"):
        report([], tmp_path / "report")


def test_a_recipe_of_another_version_is_left_aside(tmp_path: pathlib.Path):
    run = make_run(tmp_path / "run")
    (run / "recipe.json").write_text('{"$spec": "codejax.gone:Gone", "name": "old"}')
    assert read_run(run).recipe is None
    assert report([run, run], tmp_path / "report").exists()


def test_long_samples_are_cut_and_said_to_be(tmp_path: pathlib.Path):
    run = make_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    [sample] = results["samples"]
    sample["prefix"], sample["suffix"], sample["generated"] = (
        "".join(f"{name}{i}\n" for i in range(100)) for name in ("p", "s", "g")
    )
    (run / "results.json").write_text(json.dumps(results))
    text = Reader(report([run], tmp_path / "report").read_text()).text
    assert "… 86 lines above\np86\n" in text
    assert "p99\ng0\n" in text
    assert "g23\n… 76 more\ns0\n" in text
    assert "s13\n… 86 lines below" in text


def test_figures_need_only_what_a_run_has(tmp_path: pathlib.Path):
    run = make_run(tmp_path / "run")
    (run / "results.json").unlink()
    (run / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 2.0}\n')
    assert [figure.name for figure in draw_figures([read_run(run)])] == ["loss"]
    assert report([run], tmp_path / "report").exists()


def test_svg_colours_are_variables(tmp_path: pathlib.Path):
    for figure in draw_figures([read_run(make_run(tmp_path / "run"))]):
        assert "var(--" in figure.svg
        assert not [colour for colour in (*SERIES, INK) if colour in figure.svg]


def check_spread(place: Callable[[list[float], float], list[float]]) -> None:
    wanted = [0.0, 0.1, 0.15, 3.0, 3.0, 9.0]
    places = place(wanted, 1.0)
    assert min(np.diff(places)) > 1 - tolerance("rounding")
    assert places[-1] == 9
    assert abs(np.mean(places[:3]) - np.mean(wanted[:3])) < tolerance("rounding")


def test_labels_are_apart_and_near():
    check_spread(spread)


def test_labels_are_apart_and_near_mutant():
    with pytest.raises(AssertionError):
        check_spread(lambda wanted, gap: list(wanted))
    with pytest.raises(AssertionError):
        check_spread(lambda wanted, gap: [wanted[0] + gap * i for i in range(len(wanted))])


def test_running_mean_and_thinning_keep_the_mean():
    values = np.array([1.0, 3.0, np.nan, 5.0, 100.0])
    np.testing.assert_allclose(running_mean(values, 3), [2, 2, 4, 52.5, 52.5])
    steps = np.arange(5000.0)
    thin_steps, thin_values = thin(steps, steps * 2)
    assert len(thin_steps) <= MAX_POINTS
    np.testing.assert_allclose(thin_values, thin_steps * 2)


def check_rate(smooth: Callable[[RunRecord, str], np.ndarray], folder: pathlib.Path) -> None:
    """Steps of 100 tokens a second, seen two at once: each second one seems to take no time."""
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(100):
            seconds = 2e-6 if step % 2 else 2.0
            line = {"step": step, "seconds": seconds, "tokens_per_second": 100 / seconds}
            file.write(json.dumps(line) + "\n")
    rates = smooth(read_run(folder), "tokens_per_second")
    assert 80 < min(rates) <= max(rates) < 125


def test_rates_are_tokens_over_seconds(tmp_path: pathlib.Path):
    check_rate(smooth_rate, tmp_path / "run")


def test_rates_are_tokens_over_seconds_mutant(tmp_path: pathlib.Path):
    with pytest.raises(AssertionError):
        check_rate(lambda run, name: running_mean(run.series("train", name)[1], 10), tmp_path / "a")


def test_numbers_are_short():
    assert [short(n) for n in (7, 950, 999_990, 5_240_000, 1.2e9)] == [
        *("7", "950", "1M", "5.24M", "1.2B")
    ]
    assert [clock(n) for n in (8, 245, 7384)] == [
        ("8", "seconds"),
        ("4:05", "minutes"),
        ("2:03", "hours"),
    ]
