"""The sentences of a run: what its comparisons come to, said no more surely than they are."""

import pytest

from medal.pipeline.metrics import Difference
from medal.student.figures.verdict import caution, judge_teacher, write_verdict

BETTER, WORSE, UNCLEAR = (
    Difference(value, interval, p)
    for value, interval, p in ((0.03, (0.01, 0.05), 0.004), (-0.03, (-0.05, -0.01), 0.02), (0.01, (-0.02, 0.04), 0.5))
)


LEARNED = {
    "n": 624,
    "auroc": 0.93,
    "accuracy": 0.89,
    "ci95": {"auroc": [0.9, 0.955], "accuracy": [0.86, 0.91]},
    "rests_on": {"units": 600, "rarest": 200},
}
GUESSES = LEARNED | {"auroc": 0.51, "accuracy": 0.62, "ci95": {"auroc": [0.43, 0.59], "accuracy": [0.58, 0.66]}}
FEW = LEARNED | {"rests_on": {"units": 12, "rarest": 4}}
REACHED = "The student reaches AUROC 0.930 (95 % 0.900 to 0.955) and accuracy 0.890 (95 % 0.860 to 0.910)"


def verdict(found, by_seed=((0.9, 0.8), (0.9, 0.95), (0.9, 0.8)), student=LEARNED, baseline=LEARNED, **changed):
    asked = {"teacher": {"auroc": WORSE}, "seeds": len(by_seed), "alpha": 0.5}
    arms = {"student": student} if found is None else {"student": student, "baseline": baseline}
    compared = {"auroc": found} if isinstance(found, Difference) else found
    return write_verdict("test", arms=arms, baseline=compared, by_seed=by_seed, **(asked | changed))


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (BETTER, "Distilling helped: AUROC +0.0300 (95 % +0.0100 to +0.0500, p < 0.01) against the labels alone"),
        (WORSE, "Distilling hurt: AUROC -0.0300 (95 % -0.0500 to -0.0100, p = 0.02)"),
        (UNCLEAR, "Distilling made no difference that could be shown: AUROC +0.0100"),
        (None, "Whether distilling helped is not known"),
    ],
)
def test_what_the_student_reaches_is_said_before_the_difference(found, start):
    assert verdict(found).startswith(f"{REACHED} (624 test images, mean of 3 seeds). {start}")


@pytest.mark.parametrize("found", [BETTER, WORSE, UNCLEAR])
def test_two_arms_that_guess_are_no_ground_for_a_verdict(found):
    said = verdict({"auroc": found, "accuracy": BETTER, "brier": UNCLEAR}, student=GUESSES, baseline=GUESSES)
    assert said.startswith(
        "No verdict yet: neither the student (AUROC 0.510 (95 % 0.430 to 0.590)) nor the baseline (AUROC 0.510 (95 % "
        "0.430 to 0.590)) can be distinguished from guessing (624 test images, mean of 3 seeds); see whether more "
        "--epochs help."
    )
    assert "accuracy +0.0300" in said
    for word in ("helped", "hurt", "no difference", "Brier"):
        assert word not in said


def test_a_figure_without_width_has_its_caveat():
    certain = LEARNED | {"auroc": 1.0, "ci95": {"auroc": [1.0, 1.0], "accuracy": [0.86, 0.91]}}
    assert "AUROC 1.000 (the same in every resample, but that is not certainty) and accuracy" in verdict(
        UNCLEAR, student=certain
    )


def test_one_arm_that_guesses_is_named_before_the_difference():
    said = verdict(WORSE, student=GUESSES)
    assert said.index(
        "the student (AUROC 0.510 (95 % 0.430 to 0.590)) cannot be distinguished from guessing"
    ) < said.index("hurt")
    said = verdict(BETTER, baseline=GUESSES)
    assert said.index("the baseline (AUROC 0.510") < said.index("Distilling helped")


def test_a_student_that_guesses_is_said_to_without_a_baseline_as_well():
    said = verdict(None, student=GUESSES)
    assert said.startswith(
        "No verdict yet: the student (AUROC 0.510 (95 % 0.430 to 0.590)) cannot be distinguished from guessing"
    )
    assert "--baseline adds it" in said


@pytest.mark.parametrize("found", [BETTER, WORSE, UNCLEAR])
def test_so_few_images_bear_no_verdict(found):
    said = verdict(found, student=FEW, baseline=FEW)
    assert said.startswith("No verdict yet: there are too few images, or too few of one class. The student reaches")
    for word in ("helped", "hurt", "no difference"):
        assert word not in said


def test_figures_that_disagree_are_named_first():
    opposed = verdict({"auroc": WORSE, "accuracy": BETTER, "auprc": UNCLEAR})
    assert "Whether distilling helped depends on the figure. Against the labels alone: AUROC -0.0300" in opposed
    assert "; accuracy +0.0300 (95 % +0.0100 to +0.0500, p < 0.01)." in opposed
    assert "AUPRC" not in opposed
    assert "Distilling h" not in opposed
    # Less is better of a Brier score.
    assert "depends on the figure" in verdict({"auroc": BETTER, "brier": BETTER})
    assert "Distilling helped" in verdict({"auroc": BETTER, "brier": WORSE})
    beside = verdict({"auroc": UNCLEAR, "accuracy": WORSE, "brier": WORSE})
    assert "Distilling made no difference that could be shown" in beside
    assert " But significantly better: Brier score -0.0300" in beside
    assert beside.endswith(" But significantly worse: accuracy -0.0300 (95 % -0.0500 to -0.0100, p = 0.02).")
    assert "But" not in verdict({"auroc": UNCLEAR, "accuracy": UNCLEAR})


def test_one_seed_is_said_to_be_one():
    said = verdict(BETTER, by_seed=[(0.9, 0.8)])
    assert "one seed" in said
    assert "Another seed may give another result: check with --seeds 3" in said
    assert "higher in 2 of 3 seeds" in verdict(BETTER)


def test_labels_alone_are_no_distillation():
    chosen = (
        "Distillation did not help here: on val nothing was better than the labels alone by more than one standard "
        "error"
    )
    ground = "nothing was better than the labels alone by more than one standard error (alpha 0)"
    assert chosen in verdict(UNCLEAR, alpha=0, unhelpful=ground)
    assert ". The student was trained on the labels alone: the student is significantly below its teacher" in verdict(
        UNCLEAR, alpha=0
    )


def test_what_is_left_open_is_the_far_end_of_the_interval():
    assert verdict(UNCLEAR).endswith("A difference of up to about 0.040 remains possible.")
    said = verdict(Difference(0.0, (0.0, 0.0), 1.0))
    assert "0.000 remains possible" not in said
    assert "AUROC +0.0000 (the same in every resample, but that is not certainty) against the labels alone" in said
    assert said.endswith("These images cannot tell the two apart.")


def test_seeds_are_counted_where_auroc_is_defined():
    assert "seeds." not in verdict({"accuracy": BETTER}, by_seed=[(None, None)] * 2)


@pytest.mark.parametrize(("units", "rarest", "said"), [(30, 10, False), (29, 10, True), (600, 9, True), (0, 0, True)])
def test_intervals_of_too_little_carry_a_warning(units, rarest, said):
    found = caution({"units": units, "rarest": rarest})
    assert bool(found) is said
    assert (
        not said
        or (f"based on {units} patients (or images without a known patient), {rarest} of them in the rarest") in found
    )


def test_where_auroc_is_undefined_accuracy_decides():
    undefined = LEARNED | {"auroc": None, "ci95": {"auroc": [None, None], "accuracy": [0.86, 0.91]}}
    said = verdict({"accuracy": BETTER}, student=undefined, baseline=undefined)
    assert said.startswith("The student reaches accuracy 0.890 (95 % 0.860 to 0.910) (624 test images")
    assert "Distilling helped: accuracy" in said
    assert "undefined on test" in verdict({}, student=undefined | {"accuracy": None}, baseline=undefined)


def test_the_gate_fires_for_a_teacher_that_is_significantly_worse():
    gate = judge_teacher({"auroc": WORSE}, "test")
    assert gate["fires"] is True
    assert "--alpha auto or --no-distill" in gate["message"]
    assert "also learned from the baseline" in judge_teacher({"auroc": WORSE}, "test", alone=False)["message"]
    assert judge_teacher({"auroc": UNCLEAR}, "test")["fires"] is False
    assert judge_teacher({"auroc": BETTER}, "test")["fires"] is False
    assert judge_teacher(None, "test")["fires"] is None
