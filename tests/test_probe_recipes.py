"""The probe's recipes: what each learns from, and that nobody's own label reaches the answer for them."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from medal.cache.errors import DataError
from medal.cache.format.digest import cache_id
from medal.pipeline.metrics import probabilities, score
from medal.pipeline.probe.fit import describe_probe, logits
from medal.pipeline.probe.graph import neighbour_graph, spread_labels
from medal.pipeline.probe.recipes import RECIPES, Labelled, Problem, settle
from medal.pipeline.probe.settings import ProbeSettings
from medal.pipeline.probe.soft import fit_soft

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "probe_cases.py")))
Case, random_keys = cases.Case, cases.random_keys
# What a request said of a probe when there was one recipe.
BEFORE = {
    "folds": 5, "grid": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0], "choice_rows": 20_000,
    "seed": 0, "max_iter": 1000, "tolerance": 1e-4,
}  # fmt: skip


def few_labels(case, share=0.3):
    """Forget the labels of all but the first rows."""
    labels = case.labels["train"]
    labels[int(share * len(labels)) :] = -1 if case.task == "multiclass" else 255
    return case


@pytest.fixture(
    params=[(*case, recipe) for case in cases.CASES for recipe in RECIPES], ids=lambda one: "-".join(map(str, one))
)
def asked(request):
    task, n_classes, recipe = request.param
    return few_labels(Case(task, n_classes)), recipe


# --- what a probe has seen -------------------------------------------------------------------------------------------


def test_labels_that_a_probe_may_not_see_change_no_bit_of_it(asked):
    case, recipe = asked
    labels = Case(case.task, case.n_classes).labels["train"]
    seen, order = np.arange(0, 150, 2), np.arange(150)
    found = []
    for turn in (0, 1):
        other = labels.copy()
        hidden = np.setdiff1d(order, seen)
        other[hidden] = np.roll(labels[hidden], turn, 0)
        assert turn == 0 or (other != labels).any()
        problem = Problem(
            Labelled(case.features["train"], other), order, case.task, case.n_classes, ProbeSettings(recipe=recipe)
        )
        found.append(RECIPES[recipe](problem)(seen))
    np.testing.assert_array_equal(found[0].weight, found[1].weight)
    np.testing.assert_array_equal(found[0].bias, found[1].bias)
    labels[seen] = np.roll(labels[seen], 1, 0)
    problem = problem._replace(train=Labelled(case.features["train"], labels))
    assert (RECIPES[recipe](problem)(seen).weight != found[0].weight).any()


@pytest.mark.parametrize("recipe", ["mean", "graph", "plain", "grid"])
def test_a_patients_label_does_not_come_back_through_their_other_images(recipe):
    """Patients' images are alike and their labels drawn by lot: who answers for one has seen it or knows nothing."""
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 4)
    case = Case("multiclass", 2, n_rows=240)
    case.keys = random_keys(240)
    case.labels["train"] = generator.permutation(np.arange(60) % 2)[patient].astype(np.int32)
    looks = generator.normal(size=(60, 40))[patient] + 0.1 * generator.normal(size=(240, 40))
    case.features = {"train": looks.astype(np.float16)}
    del case.labels["val"]

    def worth(groups):
        case.groups = groups
        return score(case.train_logits(case.fit(recipe=recipe)), case.labels["train"], "multiclass", ("a", "b")).auroc

    assert abs(worth(patient) - 0.5) < 0.15
    # Were the folds to divide patients, or a probe to see labels of its fold, it would know them all.
    assert worth(np.full(240, -1)) > 0.85


# --- order, bytes, convention ----------------------------------------------------------------------------------------


def test_permuted_rows_and_threads_change_no_bit(asked):
    case, recipe = asked
    probe = case.fit(recipe=recipe)
    order = np.random.default_rng(4).permutation(150)
    with threadpool_limits(2):
        again = case.fit(order, recipe=recipe)
    np.testing.assert_array_equal(again.fold, probe.fold[order])
    np.testing.assert_array_equal(again.weight, probe.weight)
    np.testing.assert_array_equal(again.bias, probe.bias)


def test_logits_are_linear_in_the_feature_and_centred(asked):
    case, recipe = asked
    probe = case.fit(recipe=recipe)
    assert probe.recipe == recipe
    assert probe.folds == 5
    assert probe.converged
    expected = case.features["test"].astype(np.float32) @ probe.weight[-1].T + probe.bias[-1]
    found = logits(case.features["test"], probe.weight[-1], probe.bias[-1])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if case.task == "multiclass":
        np.testing.assert_allclose(found.mean(1), 0, atol=1e-5)
    names = [str(index) for index in range(case.n_classes)]
    assert score(found, case.labels["test"], case.task, names).auroc > 0.8
    told = describe_probe(probe, {"test": found}, case.labels, case.task, names)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["recipe"], told["why"], told["settings"]["recipe"]) == (recipe, "asked for", recipe)


def test_a_label_that_is_constant_gets_its_prior_odds():
    case = few_labels(Case("multilabel", 3))
    case.labels["train"][case.labels["train"][:, 1] != 255, 1] = 1
    probe = case.fit(recipe="mean")
    assert not probe.weight[:, 1].any()
    assert (probe.bias[:, 1] > 2).all()


def test_a_graph_that_holds_fewer_rows_holds_those_with_labels():
    case = few_labels(Case(n_rows=400), 0.1)
    probes = [case.fit(recipe="mean", folds=0, graph_rows=rows) for rows in (40, 120, 400)]
    for probe in probes:
        found = logits(case.features["test"], probe.weight[-1], probe.bias[-1])
        assert score(found, case.labels["test"], "multiclass", "abc").auroc > 0.8
    assert (probes[0].weight != probes[2].weight).any()


# --- the parts, against plain linear algebra -------------------------------------------------------------------------


def test_spreading_solves_the_linear_system():
    generator = np.random.default_rng(1)
    graph = neighbour_graph(generator.normal(size=(60, 8)).astype(np.float32), components=5, neighbours=6)
    dense = graph.toarray()
    np.testing.assert_allclose(dense, dense.T)
    assert not dense.diagonal().any()
    assert np.abs(np.linalg.eigvalsh(dense)).max() == pytest.approx(1, abs=1e-9)
    given = np.arange(60) % 5 == 0
    target = np.eye(3)[generator.permutation(np.arange(60) % 3)]
    mass = np.linalg.solve(np.eye(60) - 0.9 * dense, target * given[:, None])
    mass *= target[given].mean(0) / mass.sum(0)
    found = spread_labels(graph, target, given, share=0.9)
    np.testing.assert_allclose(found[~given], (mass / mass.sum(1, keepdims=True))[~given], atol=1e-3)
    np.testing.assert_array_equal(found[given], target[given])


@pytest.mark.parametrize("shape", [(50, 8), (50, 200)])
def test_neighbours_are_near_in_whitened_components(shape):
    matrix = (np.random.default_rng(2).normal(size=shape) * np.geomspace(0.1, 3, shape[1])).astype(np.float32)
    centred = matrix.astype(np.float64) - matrix.mean(0, dtype=np.float64)
    scores = np.linalg.svd(centred, full_matrices=False)[0][:, :4]  # of equal length: whitened but for a factor
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    similarity = scores @ scores.T
    np.fill_diagonal(similarity, -2)
    wanted = np.zeros((50, 50), bool)
    wanted[np.arange(50)[:, None], np.argsort(-similarity, axis=1)[:, :3]] = similarity.max() > 0
    wanted &= similarity > 0
    found = neighbour_graph(matrix, components=4, neighbours=3).toarray() > 0
    np.testing.assert_array_equal(found, wanted | wanted.T)


def test_a_row_that_no_label_reaches_gets_the_frequencies():
    matrix = np.concatenate([np.random.default_rng(3).normal(size=(6, 4)) + place for place in (-9, 9)]).astype(
        np.float32
    )
    graph = neighbour_graph(matrix, components=1, neighbours=3)
    given = np.arange(12) < 3
    found = spread_labels(graph, np.eye(2)[[0, 0, 1] + [0] * 9], given, share=0.9)
    np.testing.assert_allclose(found[6:], [[2 / 3, 1 / 3]] * 6)


def test_soft_labels_are_fitted_as_weighted_copies_of_hard_ones_are():
    generator = np.random.default_rng(5)
    matrix = generator.normal(size=(80, 6)).astype(np.float32)
    target = generator.dirichlet((1, 1, 1), 80)
    found = fit_soft(matrix, target, C=0.5, max_iter=1000, tolerance=1e-8)
    copies = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(
        np.repeat(matrix, 3, 0), np.tile(np.arange(3), 80), target.ravel()
    )
    np.testing.assert_allclose(found.weight, copies.coef_, atol=1e-3)
    one = fit_soft(matrix, target[:, :1], C=0.5, max_iter=1000, tolerance=1e-8)
    weights = np.stack([1 - target[:, 0], target[:, 0]], 1).ravel()
    copies = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(
        np.repeat(matrix, 2, 0), np.tile(np.arange(2), 80), weights
    )
    np.testing.assert_allclose(one.weight, copies.coef_, atol=1e-3)
    assert found.converged


def test_the_mean_lies_between_its_two():
    case = few_labels(Case())
    answers = {
        recipe: probabilities(logits(case.features["test"], probe.weight[-1], probe.bias[-1]), "multiclass")
        for recipe in ("mean", "graph", "plain")
        for probe in [case.fit(recipe=recipe, folds=0)]
    }
    between = (answers["graph"] + answers["plain"]) / 2
    assert np.abs(answers["mean"] - between).mean() < np.abs(answers["graph"] - answers["plain"]).mean() / 2


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_request_from_before_there_were_recipes_keeps_its_address():
    settings = ProbeSettings.from_dict(BEFORE)
    assert settings == ProbeSettings(recipe="grid")
    assert settings.to_dict() == BEFORE
    assert cache_id({"probe": settings.to_dict()}) == cache_id({"probe": BEFORE})
    assert cache_id({"probe": ProbeSettings().to_dict()}) != cache_id({"probe": BEFORE})
    for recipe in ("auto", *RECIPES):
        asked = ProbeSettings(recipe=recipe, folds=3)
        assert ProbeSettings.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    with pytest.raises(DataError, match="Expected the settings"):
        ProbeSettings.from_dict({**ProbeSettings().to_dict(), "recipe": "best"})
    with pytest.raises(DataError, match="got 'best'; give --probe auto"):
        ProbeSettings(recipe="best")


def test_auto_goes_by_how_many_are_labelled():
    labels = np.full(100, -1)
    for count, expected in ((50, "mean"), (51, "grid")):
        labels[:count] = 1
        recipe, why = settle(ProbeSettings(), labels, "multiclass")
        assert recipe == expected
        assert why.startswith(f"{count} of 100 images of train are labelled")
    bits = np.full((100, 2), 255)
    bits[:30, 0] = 1
    assert settle(ProbeSettings(), bits, "multilabel")[0] == "mean"
    assert settle(ProbeSettings(graph_rows=59), bits, "multilabel")[0] == "grid"
    assert settle(replace(ProbeSettings(), recipe="plain"), bits, "multilabel") == ("plain", "asked for")


def test_few_labels_are_answered_for_by_the_mean():
    case = few_labels(Case(), 0.1)
    found = case.fit(recipe="auto")
    np.testing.assert_array_equal(found.weight, case.fit(recipe="mean").weight)
    assert found.recipe == "mean"
    assert found.chosen_on == "none"
    whole = Case()
    np.testing.assert_array_equal(whole.fit(recipe="auto").weight, whole.fit(recipe="grid").weight)
