"""The sentences of a run: what its comparisons come to, said no more surely than they are."""

import pytest

from medal.pipeline.metrics import Difference
from medal.student.figures.verdict import caution, doubt, judge_teacher, write_verdict

BETTER, WORSE, UNCLEAR = (
    Difference(value, interval, p)
    for value, interval, p in ((0.03, (0.01, 0.05), 0.004), (-0.03, (-0.05, -0.01), 0.02), (0.01, (-0.02, 0.04), 0.5))
)


def verdict(found, by_seed=((0.9, 0.8), (0.9, 0.95), (0.9, 0.8)), **changed):
    asked = {"teacher": {"auroc": WORSE}, "images": 624, "seeds": len(by_seed), "alpha": 0.5, "chosen": False}
    return write_verdict(
        "test", baseline=None if found is None else {"auroc": found}, by_seed=by_seed, **(asked | changed)
    )


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (BETTER, "Distilling helped: test AUROC +0.0300 (95 % +0.0100 to +0.0500, p < 0.01) against the labels alone"),
        (WORSE, "Distilling hurt: test AUROC -0.0300 (95 % -0.0500 to -0.0100, p = 0.02)"),
        (UNCLEAR, "Distilling made no difference that could be shown: test AUROC +0.0100"),
        (None, "Whether distilling helped is not known"),
    ],
)
def test_the_verdict_follows_the_interval(found, start):
    said = verdict(found)
    assert said.startswith(start)
    assert "624 test images, mean of 3 seeds" in said


@pytest.mark.parametrize("ranking", [BETTER, UNCLEAR])
def test_worse_decisions_are_said_beside_a_better_ranking(ranking):
    asked = {"teacher": {"auroc": WORSE}, "images": 624, "seeds": 1, "alpha": 0.5, "chosen": False}
    said = write_verdict("test", baseline={"auroc": ranking, "accuracy": WORSE}, by_seed=[(0.9, 0.8)], **asked)
    assert said.endswith(" But accuracy is significantly lower: -0.0300 (95 % -0.0500 to -0.0100, p = 0.02).")
    unclear = write_verdict("test", baseline={"auroc": ranking, "accuracy": UNCLEAR}, by_seed=[(0.9, 0.8)], **asked)
    assert "But" not in unclear


def test_one_seed_is_said_to_be_one():
    said = verdict(BETTER, by_seed=[(0.9, 0.8)])
    assert "one seed" in said
    assert "another seed may say otherwise, and --seeds 3 asks it" in said
    assert "higher one with 2 of 3 seeds" in verdict(BETTER)


def test_labels_alone_are_no_distillation():
    chosen = (
        "Distillation did not help here: on val nothing was ahead of the labels alone by more than one standard error"
    )
    assert verdict(UNCLEAR, alpha=0, chosen=True).startswith(chosen)
    assert verdict(UNCLEAR, alpha=0).startswith("The student was trained on the labels alone")


def test_what_is_left_open_is_the_far_end_of_the_interval():
    assert verdict(UNCLEAR).endswith("A difference of up to about 0.040 remains possible.")


def test_seeds_are_counted_where_auroc_is_defined():
    asked = {"teacher": {"auroc": WORSE}, "images": 9, "seeds": 2, "alpha": 0.5, "chosen": False}
    said = write_verdict("test", baseline={"accuracy": BETTER}, by_seed=[(None, None)] * 2, **asked)
    assert "seeds." not in said


@pytest.mark.parametrize(("units", "rarest", "said"), [(30, 10, False), (29, 10, True), (600, 9, True), (0, 0, True)])
def test_intervals_of_too_little_are_not_taken_at_their_word(units, rarest, said):
    found = caution({"units": units, "rarest": rarest})
    assert bool(found) is said
    assert not said or f"they rest on {units} patients, or images without one, {rarest} of them of the rarest" in found


def test_where_auroc_is_undefined_accuracy_decides():
    compared = {"accuracy": BETTER}
    said = write_verdict(
        "val", baseline=compared, teacher=compared, images=9, by_seed=[], seeds=2, alpha=0.5, chosen=False
    )
    assert said.startswith("Distilling helped: val accuracy")
    assert "undefined on val" in write_verdict(
        "val", baseline={}, teacher={}, images=9, by_seed=[], seeds=2, alpha=0.5, chosen=False
    )


def test_a_student_that_guesses_is_no_ground_for_a_verdict():
    learned, guesses = {"auroc": 0.9, "ci95": {"auroc": [0.8, 0.95]}}, {"auroc": 0.51, "ci95": {"auroc": [0.43, 0.59]}}
    assert doubt({"student": learned, "baseline": learned, "teacher": guesses}) == ""
    assert doubt({"student": {"auroc": None, "ci95": {"auroc": [None, None]}}}) == ""
    assert "Mind that the baseline (AUROC 0.510) cannot be told" in doubt({"student": learned, "baseline": guesses})
    both = doubt({"student": guesses, "baseline": guesses})
    assert "the student (AUROC 0.510) and the baseline (AUROC 0.510) cannot be told from guessing" in both
    assert "more --epochs" in both


def test_the_gate_fires_for_a_teacher_that_is_significantly_worse():
    gate = judge_teacher({"auroc": WORSE}, "test")
    assert gate["fires"] is True
    assert "--alpha auto or --no-distill" in gate["message"]
    assert judge_teacher({"auroc": UNCLEAR}, "test")["fires"] is False
    assert judge_teacher({"auroc": BETTER}, "test")["fires"] is False
    assert judge_teacher(None, "test")["fires"] is None
