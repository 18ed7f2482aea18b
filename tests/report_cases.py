"""Runs of hostile names, and a reader of the pages that are made of them."""

import csv
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from medal.pipeline.teacher.demo import tiny_teacher

# What a name can do to a page, to a drawing and to a formula; and letters that matplotlib's own font lacks.
CLASSES = ("<img src=x onerror=alert(1)>", r"$\frac{$ \"&' </svg>", "{{ 7*7 }} " + "組" * 40)
DOMAINS = ("</script><b>Łódź", "--> scanner 'B'")
QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 1, "--precision", "fp32")
# Elements of HTML that have no end.
VOID = {"meta", "img", "br"}


def draw_table(folder, splits, label):
    """Write a table of noisy squares; `label` gives the cells of a row from the class that can be seen in it."""
    folder.mkdir()
    random, rows = np.random.default_rng(0), []
    for split, count in splits.items():
        for number in range(count):
            kind = number % 3
            image = random.integers(0, 120, (24, 24))
            image[: 8 + 8 * kind] += 60
            name = f"{split}-{number}.png"
            Image.fromarray(image.astype(np.uint8)).save(folder / name)
            rows.append({"file": name, "split": split, **label(kind, number)})
    with (folder / "set.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "set.csv"


def furnish(medal, place):
    """Make the sets, their caches, and four runs."""
    teacher = tiny_teacher(place)
    request = ("--teacher", teacher, "--image-size", 28, "--batch-size", 16)
    classes = draw_table(
        place / "classes",
        {"train": 30, "val": 15, "test": 36},
        lambda kind, number: {"label": CLASSES[kind], "domain": DOMAINS[number % 2]},
    )
    labels = draw_table(
        place / "labels",
        {"train": 30, "val": 30},
        lambda kind, number: {"big": int(kind > 0), "<i>odd": number % 2 if number % 5 else "", "group": number // 2},
    )
    medal("cache-teacher", classes, place / "classes.zarr", *request, "--accept-classes")
    several = ("--label-columns", "big,<i>odd")
    medal("cache-teacher", labels, place / "labels.zarr", *request, *several)
    train = ("train-student", place / "classes.zarr", classes, *QUICK)
    medal(*train, "--out", place / "whole", "--seeds", 2, "--baseline")
    medal(*train, "--out", place / "half", "--label-fraction", 0.5)
    medal("train-student", place / "labels.zarr", labels, "--out", place / "labelled", *QUICK, *several)


class Reader(HTMLParser):
    """Reads a page as a browser does, and notes what is wrong with it."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.wanted, self.text, self.tags = [], [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.wanted.update(given.get("aria-labelledby", "").split())
        for value in (given.get("href", ""), *re.findall(r"url\((#[^)]+)\)", " ".join(filter(None, given.values())))):
            assert value.startswith("#") or not value, value
            self.wanted.update([value[1:]] if value else [])
        assert not any(name.startswith("on") for name in given), given
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


# Texts whose colour is too near to what is behind them (WCAG 2, 1.4.3 asks for 4.5), with their ratio.
UNREADABLE = """() => {
  const parts = text => { const found = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(') ? found.slice(0, 4).map((v, i) => i < 3 ? v * 255 : v) : found; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => { for (let one = element; one; one = one.parentElement) {
    const found = parts(getComputedStyle(one).backgroundColor); if (found.length < 4 || found[3] > 0) return found; }
    return [255, 255, 255]; };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (element.closest('title, desc')) continue;
    if (![...element.childNodes].some(one => one.nodeType === 3 && one.data.trim())) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const [a, b] = [light(parts(svg ? style.fill : style.color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push([element.textContent.slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found; }"""
