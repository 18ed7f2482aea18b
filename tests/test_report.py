"""`medal report`: one page that stands alone, whatever a dataset's names are, with the runs' own numbers."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from report_cases import CLASSES, DOMAINS, UNREADABLE, Reader, furnish

from medal.cache.errors import StudentError
from medal.cache.reader import open_cache
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.report.cases import find_disagreements, find_errors
from medal.student.report.collecting import collect
from medal.student.report.embedding import map_run
from medal.student.report.several import describe_together
from medal.student.report.thumbnails import draw_thumbnails
from medal.student.run.predictions import read_predictions


@pytest.fixture(scope="module")
def made(medal, tmp_path_factory):
    """Runs of hostile names: two seeds and baselines; another share of labels; one of labels, patients and no test."""
    place = tmp_path_factory.mktemp("report")
    furnish(medal, place)
    return place


@pytest.fixture(scope="module")
def page(made, medal):
    """The page of one run, and what the command said of it."""
    told = medal("report", made / "whole", "--out", made / "whole.html")
    return (made / "whole.html").read_text(encoding="utf-8"), told


def test_the_page_stands_alone_and_says_what_it_shows(page, made):
    html, told = page
    read = Reader(html)
    assert read.open == []
    assert len(set(read.ids)) == len(read.ids)
    assert read.wanted <= set(read.ids)
    tags = [tag for tag, _ in read.tags]
    assert not {"script", "link", "img", "iframe", "object", "b", "i"} & set(tags)
    assert tags.count("style") == 1
    assert "default-src 'none'" in html
    assert str(made) not in html
    drawings = [given for tag, given in read.tags if tag == "svg" and "aria-hidden" not in given]
    assert len(drawings) > 10
    assert all(given["role"] == "img" and given["aria-labelledby"] for given in drawings)
    assert tags.count("title") == 1 + len(drawings)
    assert told["bytes"] == len(html.encode()) < 1_000_000
    assert told["thumbnails"] == 0
    assert not re.search(r"#01010\d", html)  # every colour is the page's
    assert {"header", "nav", "main", "footer"} <= set(tags)


def test_names_are_names_whatever_they_are(page):
    html, _ = page
    text = "".join(Reader(html).text)
    for name in (*CLASSES, *DOMAINS):
        assert name in text
    assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|(?<=\s)49(?=\s組)", html)


def test_the_numbers_are_those_that_the_run_recorded(page, made):
    text = " ".join("".join(Reader(page[0]).text).split())
    metrics = json.loads((made / "whole/metrics.json").read_text())
    assert metrics["verdict"] in text
    assert page[1]["runs"][0]["verdict"] == metrics["verdict"]
    for arm in (metrics, metrics["baseline"], metrics["teacher"]):
        low, high = arm["test"]["ci95"]["auroc"]
        shown = f"{arm['test']['auroc']:.3f} ({low:.3f}–{high:.3f})"
        assert re.sub(r"\b0\.", ".", shown) in text
    for domain in DOMAINS:
        low, high = metrics["test"]["domains"][domain]["ci95"]["accuracy"]
        assert low <= metrics["test"]["domains"][domain]["accuracy"] <= high
        shown = f"{metrics['test']['domains'][domain]['accuracy']:.3f} ({low:.3f}–{high:.3f})"
        assert re.sub(r"\b0\.", ".", shown) in text
    assert "mean of 2 seeds" in text


def test_the_same_runs_give_the_same_bytes(page, made, shell):
    said = shell("report", "whole", "--out", "again.html", cwd=made)
    assert said.returncode == 0, said.stderr
    assert (made / "again.html").read_text(encoding="utf-8") == page[0]
    assert "Wrote 'again.html'" in said.stdout


def test_a_run_keeps_its_teachers_answers(made):
    kept = read_predictions(made / "whole", "teacher.csv")
    cache = open_cache(made / "classes.zarr")
    for split in ("val", "test"):
        assert np.array_equal(kept[split].logits, cache.read(split, "logits")[:, 0])
        assert np.array_equal(kept[split].key, cache.read(split, "key"))


def test_disagreements_are_those_of_a_slow_search(made):
    (run,) = collect([made / "whole"])
    softmax = [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in map(np.float64, run.logits["student"])]
    teacher = np.float64(run.teacher.logits)
    teacher = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    apart = np.abs(np.mean(softmax, axis=0) - teacher).sum(1) / 2
    found = find_disagreements(run, 5)
    assert [one.distance for one in found] == pytest.approx(sorted(apart, reverse=True)[:5], abs=1e-6)
    for one in found:
        row = next(row for row, key in enumerate(run.rows.key) if key.tobytes().hex() == one.key)
        assert one.label == run.classes[run.rows.label[row]]
        assert one.teacher_right == (teacher[row].argmax() == run.rows.label[row])


def test_errors_are_the_surest_of_each_class(made):
    (run,) = collect([made / "whole"])
    student = np.exp(np.float64(run.logits["student"]))
    student = (student / student.sum(-1, keepdims=True)).mean(0)
    found = find_errors(run, 2)
    assert found
    for kind, name in enumerate(run.classes):
        rows = [row for row in np.flatnonzero(run.rows.label == kind) if student[row].argmax() != kind]
        expected = sorted((1 - student[row, kind] for row in rows), reverse=True)[:2]
        assert [one.distance for one in found if one.label == name] == pytest.approx(expected, abs=1e-6)
    assert not any(one.student_right for one in found)


def test_images_are_shown_only_when_asked_for(made, medal):
    out = made / "images.html"
    told = medal("report", made / "half", "--out", out, "--with-images", made / "classes/set.csv")
    (run,) = collect([made / "half"])
    shown = [one.key for one in (*find_disagreements(run, 12), *find_errors(run, 3))]
    assert told["thumbnails"] == len(set(shown)) >= 12
    html = out.read_text(encoding="utf-8")
    assert html.count('<img src="data:image/jpeg;base64,') == len(shown)
    assert "This page shows images of patients" in html
    words = ("--with-images", made / "classes/set.csv", "--with-heat")
    told = medal("report", made / "half", "--out", out.with_name("heat.html"), *words)
    assert told["thumbnails"] == len(set(shown))
    html = out.with_name("heat.html").read_text(encoding="utf-8")
    assert html.count('<img src="data:image/png;base64,') == len(shown)
    assert html.count("a wrong answer has an equally clear map") == 1
    header, *rows = (made / "classes/set.csv").read_text(encoding="utf-8").splitlines()
    (made / "classes/few.csv").write_text("\n".join([header, *rows[:45]]) + "\n", encoding="utf-8")  # no test row
    keys = [one.key for one in find_disagreements(run, 12)]
    assert draw_thumbnails(run, str(made / "classes/few.csv"), DatasetOptions(), keys) == {}


def test_a_file_or_the_environment_cannot_ask_for_images(made, shell, tmp_path):
    ask = ("report", made / "half", "--out", tmp_path / "x.html", "--dry-run")
    (tmp_path / "medal.toml").write_text('[report]\nwith-images = "set.csv"\n')
    refused = shell(*ask, cwd=tmp_path)
    assert refused.returncode == 1
    assert "with-images" in refused.stderr
    (tmp_path / "medal.toml").unlink()
    heard = shell(
        "report", made / "half", "--out", tmp_path / "x.html", env={"MEDAL_REPORT_WITH_IMAGES": "nowhere.csv"}
    )
    assert heard.returncode == 0, heard.stderr


def test_several_labels_patients_and_no_test_split(made, medal):
    medal("report", made / "labelled", "--out", made / "labelled.html")
    html = (made / "labelled.html").read_text(encoding="utf-8")
    text = " ".join("".join(Reader(html).text).split())
    assert "There is no test split" in text
    assert "does not know patients" not in text
    assert "<i>odd: decisions of the student" in text
    assert re.search(r"(big|<i>odd): (yes|no|unknown)", text)


@pytest.fixture(scope="module")
def beside(made, medal):
    medal("report", made / "whole", made / "half", "--out", made / "two.html")
    return made / "two.html"


def test_runs_beside_each_other(beside, made):
    html = beside.read_text(encoding="utf-8")
    read, text = Reader(html), " ".join("".join(Reader(html).text).split())
    assert len(set(read.ids)) == len(read.ids)
    assert "What labels are worth" in text
    assert re.search(r"'half' (is better than|is worse than|cannot be distinguished from) 'whole'", text)
    assert str(made) not in html
    (said,) = describe_together(collect([made / "whole", made / "labelled"])).sentences
    assert "The runs are not compared image by image" in said
    assert str(made) not in said


def test_domains_that_were_held_out_stand_beside_each_other(made, medal, tmp_path):
    # Laid out as --leave-one-domain-out leaves it: a run for each domain, and their means above.
    whole = json.loads((made / "half/metrics.json").read_text())
    parts = {}
    for number, domain in enumerate(DOMAINS):
        shutil.copytree(made / "half", tmp_path / f"held/domain-{number}")
        parts[domain] = {"folder": f"domain-{number}", "rows": {}}
    described = json.loads((made / "half/run.json").read_text()) | {"domains": parts}
    (tmp_path / "held/run.json").write_text(json.dumps(described))
    (tmp_path / "held/metrics.json").write_text(json.dumps(whole | {"verdict": "Means over the domains <held> out."}))
    told = medal("report", tmp_path / "held", "--out", tmp_path / "held.html")
    assert told["runs"][0]["verdict"].startswith("Means")
    read = Reader((tmp_path / "held.html").read_text(encoding="utf-8"))
    assert len(set(read.ids)) == len(read.ids)
    text = " ".join("".join(read.text).split())
    assert "Means over the domains <held> out." in text
    assert f"held without {DOMAINS[0]}" in text
    described["domains"][DOMAINS[0]]["folder"] = "../half"
    (tmp_path / "held/run.json").write_text(json.dumps(described))
    with pytest.raises(StudentError, match="is no folder of a domain"):
        medal("report", tmp_path / "held", "--out", tmp_path / "x.html")


def test_a_run_of_an_older_medal_has_a_report_too(made, medal, tmp_path):
    shutil.copytree(made / "half", tmp_path / "old")
    (tmp_path / "old/teacher.csv").unlink()
    metrics = json.loads((tmp_path / "old/metrics.json").read_text())
    for arm in (metrics, metrics["teacher"]):
        for domain in arm["test"]["domains"].values():
            del domain["ci95"]
    (tmp_path / "old/metrics.json").write_text(json.dumps(metrics))
    medal("report", tmp_path / "old", "--out", tmp_path / "old.html")
    assert "The run has no teacher.csv" in (tmp_path / "old.html").read_text(encoding="utf-8")


def test_what_cannot_be_reported_on_is_said_in_a_sentence(made, medal, tmp_path):
    with pytest.raises(StudentError, match="is not a finished run"):
        medal("report", tmp_path, "--out", tmp_path / "x.html")
    with pytest.raises(StudentError, match="It is inside a run: give that run"):
        medal("report", made / "whole/baseline", "--out", tmp_path / "x.html")
    with pytest.raises(StudentError, match=r"must end in \.html"):
        medal("report", made / "half", "--out", tmp_path / "x.pdf")
    with pytest.raises(StudentError, match="There is no folder"):
        medal("report", made / "half", "--out", tmp_path / "nowhere/x.html")
    shutil.copytree(made / "half", tmp_path / "torn")
    (tmp_path / "torn/history.csv").unlink()
    with pytest.raises(StudentError, match="Ask for a complete copy of the run"):
        medal("report", tmp_path / "torn", "--out", tmp_path / "x.html")
    shutil.copytree(made / "half", tmp_path / "mixed")
    shutil.copy(made / "labelled/predictions.csv", tmp_path / "mixed/predictions.csv")
    with pytest.raises(StudentError, match="Ask for a complete copy of the run"):
        medal("report", tmp_path / "mixed", "--out", tmp_path / "x.html")
    shutil.copytree(made / "half", tmp_path / "strange")
    metrics = json.loads((made / "half/metrics.json").read_text())
    metrics["test"]["auroc"] = "<b>high</b>"
    (tmp_path / "strange/metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(StudentError, match="'strange' cannot be reported on"):
        medal("report", tmp_path / "strange", "--out", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_nothing_is_replaced_unasked_and_a_dry_run_writes_nothing(made, medal, tmp_path):
    out = tmp_path / "x.html"
    assert medal("report", made / "half", "--out", out, "--dry-run")["runs"][0]["split"] == "test"
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(StudentError, match="--overwrite"):
        medal("report", made / "half", "--out", out)
    assert out.read_text() == "mine"
    medal("report", made / "half", "--out", out, "--overwrite")
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


# ── In a browser ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    play = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    # Root has no sandbox to go into; the pages are our own.
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with play.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def audited(made, medal):
    medal("audit", made / "classes.zarr", made / "classes/set.csv", "--html", made / "audit.html")
    return made / "audit.html"


@pytest.mark.usefixtures("page", "beside", "audited")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["whole", "two", "audit"])
def test_a_browser_shows_it_without_a_word(browser, made, name, width, scheme):
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    heard = []
    view.on("console", lambda said: heard.append(said.text))
    view.on("pageerror", lambda said: heard.append(str(said)))
    view.on("dialog", lambda said: heard.append(said.message))
    view.on("request", lambda asked: heard.append(asked.url[:60]))
    view.goto((made / f"{name}.html").as_uri())
    for _ in range(2):
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert view.evaluate(UNREADABLE) == []
    assert [one for one in heard if one != (made / f"{name}.html").as_uri()[:60]] == []
    assert view.evaluate("[...document.querySelectorAll('svg[role=img]')].every(one => one.clientHeight > 50)")
    view.close()


@pytest.mark.usefixtures("page")
def test_keyboard_selection_and_paper(browser, made):
    view = browser.new_page(color_scheme="dark")
    view.goto((made / "whole.html").as_uri())
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the content"
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "content"
    selected = "svg => { getSelection().selectAllChildren(svg); return getSelection().toString(); }"
    assert "sensitivity" in view.locator("svg[aria-labelledby*=-roc-]").first.evaluate(selected)
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tall = "[...document.querySelectorAll('details table')].map(one => one.getBoundingClientRect().height)"
    assert min(view.evaluate(tall)) > 20
    view.close()


def test_a_map_is_coloured_by_class_and_by_error(made, medal, tmp_path):
    words = ("--with-map", made / "classes.zarr", "--out", tmp_path / "map.html")
    medal("report", made / "whole", made / "half", *words)
    html = (tmp_path / "map.html").read_text(encoding="utf-8")
    read = Reader(html)
    assert len(set(read.ids)) == len(read.ids)
    assert read.wanted <= set(read.ids)
    captions = ["by class", "by the student&#39;s answer", "by the teacher&#39;s answer"]
    assert re.findall(r"<figcaption>(by [^<]+)</figcaption>", html) == 2 * captions
    (whole,) = collect([made / "whole"])
    drawn = map_run(whole, open_cache(made / "classes.zarr"))
    counts = [{name: count for name, _, count in panel.names} for panel in drawn.panels]
    right = int((whole.rows.logits.argmax(1) == whole.rows.label).sum())
    assert drawn.shown == 36
    assert counts[0] == dict.fromkeys(CLASSES, 12)
    assert counts[1].get("right", 0) == right
    assert counts[1].get("wrong", 0) == 36 - right
    top = whole.learners["student"][0]
    strange = replace(top, answers=replace(top.answers, key=top.answers.key ^ 255))
    with pytest.raises(StudentError, match=r"lacks .* of the .* images that 'whole' is judged by"):
        map_run(replace(whole, learners={"student": [strange]}), open_cache(made / "classes.zarr"))
    lean = ("--teacher", tiny_teacher(made), "--image-size", 28, "--no-features", "--accept-classes")
    medal("cache-teacher", made / "classes/set.csv", tmp_path / "lean.zarr", *lean)
    with pytest.raises(StudentError, match="keeps no features, of which a map is made"):
        map_run(whole, open_cache(tmp_path / "lean.zarr"))
