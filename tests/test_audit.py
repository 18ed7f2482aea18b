"""`medal audit`: what is planted into real data is found, and what cannot be asked is said."""

import csv
import re

import numpy as np
import pytest

from medal.cache.errors import CacheMismatch, MedalError
from medal.pipeline.audit.doubtful import confident_learning, find_doubtful, label_margin
from medal.pipeline.audit.neighbours import Pairs, calibrate, fit_whitening, propose, search
from medal.pipeline.audit.shortcuts import separate
from medal.pipeline.audit.subject import Subject

CHECKS = {
    "repeats across splits",
    "contrary labels",
    "groups across splits",
    "near-duplicates across splits",
    "near-duplicates within a split",
    "classes by file properties",
    "repeats within a split",
    "doubtful labels",
    "absent classes",
    "splits told apart",
    "domains told apart",
}


@pytest.fixture(scope="module")
def planted(medal, small_npz, small_request, small_cache, tmp_path_factory):
    """The small set with what should not be: copies across splits, one of them with the other label, and brighter ones.

    Returns the dataset and its cache.
    """
    folder = tmp_path_factory.mktemp("audit")
    with np.load(small_npz) as real:
        data = dict(real)
    train, labels = data["train_images"], data["train_labels"]
    brighter = np.clip(train[10:14].astype(np.int16) + 8, 0, 255).astype(np.uint8)
    data["val_images"] = np.concatenate([data["val_images"], train[:2], brighter])
    data["val_labels"] = np.concatenate([data["val_labels"], labels[:1], 1 - labels[1:2], labels[10:14]])
    data["train_images"] = np.concatenate([train, train[20:21]])
    data["train_labels"] = np.concatenate([labels, labels[20:21]])
    np.savez(folder / "chest.npz", **data)
    medal("cache-teacher", folder / "chest.npz", folder / "chest.zarr", "--from", small_cache, *small_request)
    return folder / "chest.npz", folder / "chest.zarr"


@pytest.fixture(scope="module")
def found(medal, planted):
    dataset, cache = planted
    return medal("audit", cache, dataset)


def test_every_check_is_there_and_says_something(found):
    assert set(found["checks"]) == CHECKS
    assert all(one["sentence"] for one in found["checks"].values())
    assert {one["severity"] for one in found["checks"].values()} <= {"serious", "look", "fine", "left out"}


def test_repeats_and_contrary_labels_are_found(found):
    across = found["checks"]["repeats across splits"]
    assert (across["severity"], across["images"], across["between"]) == ("serious", 2, {"train-val": 2})
    assert found["checks"]["contrary labels"]["images"] == 1
    assert found["checks"]["repeats within a split"]["repeats"] == {"train": 1, "val": 0, "test": 0}


def test_near_duplicates_are_found(found):
    near = found["checks"]["near-duplicates across splits"]
    assert near["severity"] == "serious"
    assert near["between"]["train-val"] >= 4


def test_what_is_not_known_is_left_out(found):
    assert found["checks"]["groups across splits"]["severity"] == "left out"
    assert found["checks"]["domains told apart"]["severity"] == "left out"


def test_strict_exits_with_1_and_the_rows_are_listed(shell, planted, tmp_path):
    dataset, cache = planted
    done = shell("audit", cache, dataset, "--strict", "--csv", tmp_path / "rows.csv", "--html", tmp_path / "page.html")
    assert done.returncode == 1
    assert "2 images in more than one split" in done.stdout
    assert "Traceback" not in done.stderr
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    across = [row for row in rows if row["check"] == "repeats across splits"]
    assert [row["split"] for row in across] == ["val", "val"]
    assert all("'val_images'" in row["image"] and "'train_images'" in row["related"] for row in across)
    assert all(re.fullmatch("[0-9a-f]{32}", row["key"]) for row in rows)


def test_pairs_stand_side_by_side_where_somebody_asks_for_images(medal, shell, planted, tmp_path):
    dataset, cache = planted
    medal("audit", cache, dataset, "--html", tmp_path / "plain.html")
    assert "image/jpeg" not in (tmp_path / "plain.html").read_text()
    done = shell("audit", cache, dataset, "--html", tmp_path / "page.html", "--with-images")
    assert done.returncode == 0, done.stderr
    assert "images of patients: share it as you would share them" in done.stderr
    page = (tmp_path / "page.html").read_text()
    cells = re.findall(r'<td class="pictures">(.*?)</td>', page, re.DOTALL)
    assert len(cells) == page.count('<td class="pictures">') > 2
    first = cells[0].count('<img src="data:image/jpeg;base64,')
    assert first >= 2  # the first row is of a repeat, and its copy stands beside it
    assert 'alt="beside it"' in cells[0]
    # Serious checks come before those that a person should look at.
    checks = medal("audit", cache, dataset)["checks"]
    found = [checks[name]["severity"] for name in re.findall("<h2>(.*?)</h2>", page) if name in checks]
    assert found == sorted(found, key=("serious", "look", "fine", "left out").index)
    assert len(set(found)) > 1
    refused = shell("audit", cache, dataset, "--with-images")
    assert refused.returncode == 2
    assert "--with-images needs --html FILE" in refused.stderr


def test_files_that_are_there_are_not_replaced_unasked(medal, planted, tmp_path):
    dataset, cache = planted
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(MedalError, match=r"labels.csv' is there already; give another name, or --overwrite"):
        medal("audit", cache, dataset, "--csv", tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text() == "mine"


def test_the_page_stands_alone(medal, planted, tmp_path):
    dataset, cache = planted
    medal("audit", cache, dataset, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r'<script|<link|<img src="(?!data:)|https?://|url\(', page)
    assert all(check in page for check in CHECKS)


def test_names_are_escaped_on_the_page(medal, tmp_path, small_request):
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("a<b", "c"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for row in range(count):
                Image.fromarray(random.integers(0, 255, (28, 28), np.uint8)).save(folder / f"{row}&<i>.png")
    same = tmp_path / "set/train/a<b/0&<i>.png"
    (tmp_path / "set/val/c/again.png").write_bytes(same.read_bytes())
    medal("cache-teacher", tmp_path / "set", tmp_path / "a.zarr", *small_request)
    medal("audit", tmp_path / "a.zarr", tmp_path / "set", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert "<i>" not in page


def test_without_features_the_checks_that_need_them_are_left_out(medal, planted, small_request, tmp_path):
    dataset, cache = planted
    medal("cache-teacher", dataset, tmp_path / "lean.zarr", "--from", cache, "--no-features", *small_request)
    checks = medal("audit", tmp_path / "lean.zarr", dataset)["checks"]
    left_out = {name for name, one in checks.items() if "--no-features" in one["sentence"]}
    assert left_out == {"near-duplicates across splits", "near-duplicates within a split", "splits told apart"}
    assert checks["repeats across splits"]["images"] == 2


def test_in_sample_logits_are_not_asked_about_their_own_labels(medal, planted, small_request, tmp_path):
    dataset, cache = planted
    medal("cache-teacher", dataset, tmp_path / "in.zarr", "--from", cache, "--folds", 0, *small_request)
    sentence = medal("audit", tmp_path / "in.zarr", dataset)["checks"]["doubtful labels"]["sentence"]
    assert "train is left out" in sentence


def test_another_dataset_is_refused(medal, planted, tmp_path):
    dataset, cache = planted
    with np.load(dataset) as data:
        other = {name: 255 - array if name.endswith("images") else array for name, array in data.items()}
    np.savez(tmp_path / "other.npz", **other)
    with pytest.raises(CacheMismatch, match="None of the images"):
        medal("audit", cache, tmp_path / "other.npz")


def test_the_order_of_the_dataset_changes_nothing(medal, planted, found, tmp_path):
    dataset, cache = planted
    with np.load(dataset) as data:
        turned = {name: array[::-1] for name, array in data.items()}
    np.savez(tmp_path / "chest.npz", **turned)
    assert medal("audit", cache, tmp_path / "chest.npz")["checks"] == found["checks"]


# ── Against the published formulas, letter by letter ─────────────────────────────────────────────────────────────


def slow_confident_joint(probability, label):
    """Equations 1 and 2 of Northcutt, Jiang and Chuang (2021), as they are printed."""
    classes = range(probability.shape[1])
    threshold = [np.mean([p[j] for p, y in zip(probability, label, strict=True) if y == j]) for j in classes]
    joint = np.zeros((len(classes), len(classes)), int)
    for p, y in zip(probability, label, strict=True):
        over = [j for j in classes if p[j] >= threshold[j]]
        if over:
            joint[y, max(over, key=lambda j: p[j])] += 1
    return joint


@pytest.mark.parametrize("seed", range(5))
def test_confident_joint_is_the_published_one(seed):
    random = np.random.default_rng(seed)
    probability = random.dirichlet([0.5] * 4, 300)
    label = np.array([random.choice(4, p=0.6 * row + 0.4 * np.full(4, 0.25)) for row in probability])
    found = confident_learning(probability, label)
    joint = slow_confident_joint(probability, label)
    assert found.joint.tolist() == joint.tolist()
    # Equation 3: rows scaled to the counts of the labels, then all to 1.
    counts = np.bincount(label, minlength=4)
    scaled = joint / joint.sum(1, keepdims=True) * counts[:, None]
    q = scaled / scaled.sum()
    assert found.errors == pytest.approx(len(label) * (q.sum() - np.trace(q)))
    margin = [max(p[j] for j in range(4) if j != y) - p[y] for p, y in zip(probability, label, strict=True)]
    assert label_margin(probability, label) == pytest.approx(np.array(margin))


def test_a_class_without_rows_is_never_suggested():
    probability = np.array([[0.1, 0.0, 0.9], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])
    found = confident_learning(probability, np.array([0, 0, 1]))
    assert found.suggested.tolist() == [-1, 0, 1]


def subject_of(task, label):
    """Rows of a cache, with logits drawn at random."""
    rows = np.arange(len(label))
    return Subject(
        name="set",
        task=task,
        classes=("a", "b"),
        domains=(),
        splits=("train",),
        split=np.zeros(len(rows), np.int8),
        key=np.zeros((len(rows), 16), np.uint8),
        image=rows,
        unit=rows,
        label=label,
        logits=np.random.default_rng(0).standard_normal((len(rows), 2)).astype(np.float32),
        fold=np.zeros(len(rows), np.int8),
        group=np.full(len(rows), -1, np.int32),
        domain=np.full(len(rows), -1, np.int16),
        feature=None,
        views=None,
        temperature=1.0,
        source=rows,
        dataset=None,
        notes=(),
    )


def test_rows_of_unknown_label_are_not_counted_among_those_that_may_be_wrong():
    one = np.where(np.arange(40) < 30, np.arange(40) % 2, -1).astype(np.int32)
    several = np.stack([one, np.where(np.arange(40) < 35, 1, -1)], 1).astype(np.uint8)  # -1 becomes 255, unknown too
    for task, label, count in (("multiclass", one, 30), ("multilabel", several, 35)):
        found = find_doubtful(subject_of(task, label))
        assert found.figures["rows"] == count
        assert f" of {count} estimated wrong" in found.sentence


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_search_is_what_all_products_give():
    random = np.random.default_rng(0)
    rows = random.standard_normal((2500, 16)).astype(np.float32)  # more than a block
    rows[2400:2450] = rows[:50] + 0.1 * random.standard_normal((50, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = search(rows, 0.9)
    left, right = np.nonzero(np.triu(rows @ rows.T >= 0.9, 1))
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == set(
        zip(left.tolist(), right.tolist(), strict=True)
    )
    assert (np.diff(pairs.cosine) <= 0).all()


def test_blank_images_beyond_number_do_not_fill_memory(monkeypatch):
    from medal.pipeline.audit import neighbours

    monkeypatch.setattr(neighbours, "_MOST_PAIRS", 1000)
    pairs = search(np.ones((3000, 4), np.float32) / 2, 0.9)
    assert len(pairs.left) == 1000
    assert not pairs.all_kept


def test_unrelated_rows_have_no_near_duplicates():
    rows = np.random.default_rng(0).standard_normal((600, 64)).astype(np.float16)
    whitened = fit_whitening(rows).apply(rows)
    assert len(search(whitened, calibrate(whitened).threshold).left) == 0


def test_of_each_image_only_the_nearest_few_are_looked_at():
    left, right = np.nonzero(np.triu(np.ones((6, 6)), 1))  # everything beside everything
    cosine = np.linspace(0.9, 0.6, len(left), dtype=np.float32)
    kept = propose(Pairs(left, right, cosine, True), 100)
    assert (np.bincount(np.concatenate([kept.left, kept.right])) >= 3).all()
    assert len(kept.left) < len(left)
    assert not propose(Pairs(left, right, cosine, True), 5).all_kept


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is():
    random = np.random.default_rng(0)
    values, side = random.standard_normal((400, 8)), np.arange(400) % 2
    none = separate(values, side, np.arange(400))
    assert none.low < 0.5 < none.high
    values[:, 0] += side
    assert separate(values, side, np.arange(400)).low > 0.6
    # One patient on each side is no evidence, however many images there are.
    assert separate(values, side, side) is None


def test_a_class_that_the_size_gives_away_is_found(medal, small_request, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, side in (("sick", 30), ("well", 40)):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for row in range(count):
                Image.fromarray(random.integers(0, 255, (side, 30), np.uint8)).save(folder / f"{row}.png")
    medal("cache-teacher", tmp_path / "set", tmp_path / "a.zarr", *small_request)
    checks = medal("audit", tmp_path / "a.zarr", tmp_path / "set")["checks"]
    assert checks["classes by file properties"]["severity"] == "serious"
    assert checks["classes by file properties"]["varying"] == ["height", "aspect"]
