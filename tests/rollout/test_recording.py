"""Recorded episodes: read back, and browsed on their page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import chromium
import pytest
from played import RIGHT, Sums, Verdicts, asked, mixed, played, says
from test_episode import ODD, an_episode, same

from codejax.execution.protocol import Verdict
from codejax.pages import browsing
from codejax.rollout.episode import read_episodes
from codejax.rollout.feedback import Feedback
from codejax.rollout.page import write_page
from codejax.rollout.recording import FILE, Recording
from codejax.tasks.task import Score

needs_chromium = pytest.mark.skipif(
    chromium.find_chromium() is None, reason="needs Chromium: apt install chromium"
)
BUTTONS = "document.querySelectorAll('#list button')"
HURT = "<img src=x onerror='window.hurt = 1'></script><script>window.hurt = 2</script>"


def record(folder: Path) -> Path:
    """Twelve episodes of one or more turns, an absent one and a hostile one, and their page."""
    with Recording(folder) as recording:
        for episode in played(asked(Sums(), 2), says(mixed), Verdicts()).values():
            recording.add(episode, reward=1.0, notes={"iteration": 3})
        wrong, environment = Verdicts(Verdict.WA), Feedback(max_turns=2)
        found = played(asked(Sums(), 1), says(lambda r: RIGHT), wrong, environment=environment)
        for episode in found.values():
            recording.add(episode, reward=0.0)
        recording.add(an_episode(score=Score(None), verdict="INFRA"))
        recording.add(an_episode(1, candidate=HURT, message=HURT))
        recording.add(an_episode(2, group=HURT))
    return write_page(folder, name=HURT)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"))


def test_what_is_recorded_is_read_back_after_a_kill_too(tmp_path: Path):
    for number in range(3):
        with Recording(tmp_path) as recording:
            recording.add(an_episode(number), reward=0.5)
        with (tmp_path / FILE).open("a") as file:
            file.write('{"format":1,"task":')
        kept = read_episodes(tmp_path / FILE)
        assert kept.num_damaged == 1
        assert all(same(a, an_episode(i)) for i, a in enumerate(kept.episodes))
        assert len(kept.episodes) == number + 1


def test_the_page_has_all_and_asks_for_nothing(recorded: Path):
    text = recorded.read_text()
    assert text.count("<script") == 2
    assert "<img" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert "Nothing is known of 1 episodes" in text
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    found = json.loads(data)
    assert len(found) == 12
    assert {turn["speaker"] for each in found for turn in each["turns"]} == {
        "prompt",
        "policy",
        "environment",
    }
    assert "iteration 3" in found[0]["notes"]
    assert "reward 1" in found[0]["notes"]
    assert found[6]["fault"]["message"] == "it was WA"
    assert found[9]["value"] is None
    assert ODD not in text


def test_the_page_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(browsing, "UNSAFE", {})
    assert record(tmp_path).read_text().count("<script") > 2


def test_a_folder_without_episodes_has_no_page(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no episodes"):
        write_page(tmp_path)


@needs_chromium
def test_browsing_episodes(recorded: Path):
    with chromium.Page(recorded) as page:
        assert page.run(f"{BUTTONS}.length") == 12
        page.choose("#verdict", "WA")
        assert page.run(f"{BUTTONS}.length") == 5
        page.type("#text", "this does not pass")
        assert page.run("document.querySelector('#count').textContent") == "3 of 12 samples"
        page.run(f"{BUTTONS}[0].click()")
        said = page.run("document.querySelector('#shown').innerText")
        for text in ("Environment, ", "Answer, ", "it was WA", RIGHT, "reward 0"):
            assert text in said
        page.type("#text", "")
        page.choose("#verdict", "")
        page.type("#problem", "window.hurt")
        page.run(f"{BUTTONS}[0].click()")
        assert page.run("window.hurt === undefined")
        assert page.logged == []
