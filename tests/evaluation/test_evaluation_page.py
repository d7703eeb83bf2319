"""The page of an evaluation, read as a file and in a headless Chromium."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import html.parser
import json
import re
import shutil
from pathlib import Path

import chromium
import pytest
from scripted_task import LOUD, Echoes, Scripted, Sums, Verdicts

from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.page import write_page
from codejax.execution.client import Local
from codejax.execution.protocol import Verdict
from codejax.pages import browsing

needs_chromium = pytest.mark.skipif(
    chromium.find_chromium() is None, reason="needs Chromium: apt install chromium"
)
HOSTILE = (
    "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"
    "<!--<script>\u2028</textarea><svg onload=window.hurt=3>&lt;\0\ud800\u202e\x1b[31m"
)
BUTTONS = "document.querySelectorAll('#list button')"


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory, executor: Local) -> Path:
    """The page of an evaluation with right, wrong and loud samples, really run."""
    folder = tmp_path_factory.mktemp("sums")
    evaluate(Sums(6), Scripted(), executor, Settings(num_samples=4, ks=(1, 2)), folder)
    overlap = {"shares": {"sums/1": 0.9, "sums/2": 0.1, "sums/3": None}, "threshold": 0.5, "n": 10}
    overlap |= {"contaminated": ["sums/1"], "documents": 7, "errors": 0.0}
    (folder / "contamination.json").write_text(json.dumps(overlap))
    return write_page(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one whose every text would like to be markup."""
    folder = tmp_path_factory.mktemp("hostile")

    class Hostile(Sums):
        def __init__(self) -> None:
            super().__init__(2)
            self.name = HOSTILE

    evaluate(
        Hostile(),
        Scripted(lambda r: HOSTILE),
        Verdicts(Verdict.WA),
        Settings(num_samples=2),
        folder,
    )
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace("it was WA", json.dumps(HOSTILE)[1:-1]))
    return write_page(folder)


def elements(path: Path) -> list[str]:
    """Names of all elements, as a parser of HTML sees them."""
    found = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append(tag)

    Parser().feed(path.read_text())
    return found


def embedded(path: Path) -> dict:
    """The data on a page."""
    [text] = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text()
    )
    return json.loads(text)


def test_the_page_asks_for_nothing(sums: Path):
    text = sums.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert elements(sums).count("script") == 2


def test_hostile_texts_are_no_markup(hostile: Path):
    assert elements(hostile).count("script") == 2
    assert "img" not in elements(hostile)
    assert "svg" not in elements(hostile)
    [sample, *_] = embedded(hostile)["samples"]
    assert "</script><script>window.hurt" in sample["text"]
    assert "\u202e" not in hostile.read_text()


@pytest.fixture
def defenceless(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same page made without escaping."""
    monkeypatch.setattr(browsing, "UNSAFE", {})
    folder = shutil.copytree(hostile.parent, tmp_path / "copy")
    return write_page(folder)


def test_hostile_texts_are_no_markup_mutant(defenceless: Path):
    assert "img" in elements(defenceless)


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&amp;", "\u2028", "é\U0001f600"])
def test_data_survive_encoding(text: str):
    encoded = browsing.encode({"a": text})
    assert not set("<>&") & set(encoded)
    assert encoded.isascii()
    assert json.loads(encoded) == {"a": text}


def test_the_score_is_said_first(sums: Path):
    results = json.loads((sums.parent / "results.json").read_text())["evaluation"]
    value = 100 * results["figures"]["pass@1"]["value"]
    text = sums.read_text()
    assert f"pass@1 is {value:.1f}%, 95% interval" in text
    assert "By category" in text
    assert "By language" not in text  # there is one only
    assert "Overlap with the training corpus" in text


def test_a_running_evaluation_has_a_page(tmp_path: Path):
    evaluate(Echoes(2), Scripted(lambda r: "yes"), None, Settings(), tmp_path)
    (tmp_path / "results.json").unlink()
    assert "has not come to its end" in write_page(tmp_path).read_text()


def test_a_folder_without_evaluation_has_none(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no evaluation"):
        write_page(tmp_path)


@needs_chromium
def test_browsing(sums: Path):
    with chromium.Page(sums) as page:
        assert page.run(f"{BUTTONS}.length") == 24
        page.choose("#verdict", "RE")
        loud = sum(sample["text"] == LOUD for sample in embedded(sums)["samples"])
        assert 0 < loud < 24
        assert page.run(f"{BUTTONS}.length") == loud
        assert page.run("document.querySelector('#count').textContent") == f"{loud} of 24 samples"
        page.run(f"{BUTTONS}[0].click()")
        shown = page.run("document.querySelector('#shown').innerText")
        assert "no idea" in shown
        assert "raise SystemExit(3)" in shown
        assert "Add what you read" in shown
        page.choose("#verdict", "")
        page.type("#problem", "sums/3")
        assert page.run(f"{BUTTONS}.length") == 4
        assert page.run("document.querySelector('#list').innerText").count("sums/3") == 4
        page.type("#problem", "")
        page.type("#text", "NO IDEA")
        assert page.run(f"{BUTTONS}.length") == loud
        page.type("#text", "")
        page.choose("#category", "hard")
        assert page.run(f"{BUTTONS}.length") == 12
        assert page.logged == []
        assert all(url.startswith("file://") for url in page.requested)


@needs_chromium
def test_the_keyboard_is_enough(sums: Path):
    with chromium.Page(sums) as page:
        page.press("/", "/")
        assert page.run("document.activeElement.id") == "text"
        page.run(f"{BUTTONS}[0].focus()")
        page.press("Enter", "\r")
        for _ in range(3):
            page.press("ArrowDown")
        page.press("ArrowUp")
        chosen = "document.querySelector('[aria-current=true]')"
        assert page.run(f"{chosen}.dataset.index") == "2"
        assert page.run(f"document.activeElement === {chosen}")
        assert "sample 2" in page.run("document.querySelector('#shown h3').textContent")
        assert page.run("decodeURIComponent(location.hash)") == "#sums/0:2"
        unnamed = "[...document.querySelectorAll('input, select')].filter(it => !it.labels.length)"
        assert page.run(f"{unnamed}.length") == 0


@needs_chromium
def test_hostile_texts_do_nothing(hostile: Path):
    with chromium.Page(hostile) as page:
        page.run(f"{BUTTONS}[1].click()")
        assert page.run("window.hurt === undefined")
        assert (
            page.run("document.querySelectorAll('#shown img, #shown script, #shown svg').length")
            == 0
        )
        assert "window.hurt = 1" in page.run("document.querySelector('#shown').innerText")
        assert page.logged == []


@needs_chromium
def test_the_policy_holds_where_escaping_does_not(defenceless: Path):
    with chromium.Page(defenceless) as page:
        assert page.run("window.hurt === undefined")
        assert any("Content Security Policy" in line for line in page.logged)


@needs_chromium
def test_thousands_of_samples(tmp_path: Path):
    settings = Settings(num_samples=60)
    evaluate(
        Echoes(100),
        Scripted(lambda r: "yes" if r.seed % 2 else "no\n" * 50),
        None,
        settings,
        tmp_path,
    )
    with chromium.Page(write_page(tmp_path)) as page:
        assert page.run(f"{BUTTONS}.length") == 200
        assert page.run("document.querySelector('#count').textContent") == "6000 of 6000 samples"
        page.run("document.querySelector('#more').click()")
        assert page.run(f"{BUTTONS}.length") == 400
        seconds = page.run(
            "(() => { const begin = performance.now(); byId('text').value = 'yes'; filter();"
            "return (performance.now() - begin) / 1000; })()"
        )
        assert seconds < 1.0
