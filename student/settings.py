"""The settings of stage two: one frozen dataclass, saved as JSON in every run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..cache.errors import StudentError
from ..cache.settings import check_kinds
from ..pipeline.datasets.columns.aggregate import Aggregate, PatientRule

__all__ = ["Alpha", "StudentSettings", "default_epochs"]

# One weight of the soft term for all samples, or one a class.
Alpha = float | tuple[float, ...]

# Peak learning rate of each recipe. With trained weights a higher one destroys what the student starts from.
_RATES = {"plain": 1e-3, "lp-ft": 3e-4}

# Images seen in a default training at 112 px. On PneumoniaMNIST a ResNet-18 from random weights is within 0.001 of its
# best val AUROC after this many, and two cores see them in 4 (bf16) to 8 minutes (fp32). Small sets are repeated more
# often than large ones, within bounds; larger inputs cost more and are seen less; trained weights need a third.
_IMAGES_SEEN, _SIDE = 42_000, 112
_FEWEST_EPOCHS, _MOST_EPOCHS = 5, 60
_SHARE_OF_TRAINED = 1 / 3


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """Everything that a run depends on besides the cache and the images.

    Attributes
    ----------
    student : name of a timm model
    weights : ``random``, ``pretrained`` (timm's own), ``auto`` (timm's own if the hub's local cache has them, else
        random), or a path: a folder in timm's form or a .safetensors file
    epochs : passes over train; None = by the number and size of its images (`default_epochs`)
    recipe : how a training goes: ``plain``, all weights at once; ``lp-ft``, linear probing, then fine-tuning (Kumar et
        al., ICLR 2022): the head is first fitted on the frozen embedding, then all weights learn at a low rate with
        batch normalisation frozen; ``auto``: ``lp-ft`` for a student of trained weights
    teach : whose answers are the soft targets: ``probe``, the cache's; ``ensemble``, the mean of the probe and of the
        student of the labels alone (the baseline), for images without a label; ``auto``: where fewer than half of
        train's images have a label, what val supports of the two and of the labels alone, else ``probe``
    lr : peak learning rate of AdamW; None = that of the recipe
    weight_decay : of AdamW, on matrices and kernels only
    warmup_epochs : epochs of linear warm-up before the cosine
    image_size : side of the student's input in pixels; None = by the images and the model
    temperature : T of the soft targets, > 0
    alpha : weight of the soft term, 0 (labels alone) to 1 (teacher alone), for all samples or for those of each class;
        ``auto``: it and T are chosen on val; ``per-class``: the teacher's out-of-fold recall of each class
    loss : a name in `losses.LOSSES`, or a weighted sum of them such as ``kd+0.5*feature``
    class_weight : ``balanced``: the hard loss weighs each class by the inverse of its frequency in train
    sampler : ``balanced``: every class stands equally often in an epoch; ``shuffle``: every image once
    logit_adjustment : add the log of each class's frequency in train to the logits of the hard loss (Menon et al. 2021,
        arXiv:2007.07314); predictions stay without it, and so favour no frequent class
    label_fraction : share of train's and val's labels that student and probe may know, 0 to 1
    labelled_share : share of every batch that goes to labelled images at least, which are repeated where train has
        fewer; 0 = as they come, and what is recorded where the share is there anyhow
    leave_one_domain_out : train as often as there are domains, each time without one, and measure on that one
    targets : ``canonical``: the student sees views of its own, drawn anew in each epoch, with the teacher's answer on
        the canonical view; ``stored``: it replays a view that the teacher saw, with the answer on that very view
    augment : a policy of `pipeline.views.POLICIES`; None = the cache's, or a mild one where that is ``none``
    average : share of all steps that the averaged weights look back over; they are what is evaluated and kept;
        0 = no averaging
    precision : ``auto`` = the fastest of a short measurement; ``fp32`` or ``bf16`` fix it
    memory_layout : how images lie in memory; ``auto`` = the faster of the two, as measured with `precision`, or
        channels last where that is fixed and the model can
    on_missing : what to do about dataset rows that the cache lacks
    labels : whose labels count where dataset and cache disagree; None = refuse
    device : ``cpu``, ``cuda`` or ``mps``; ``auto``: a GPU if there is one
    seeds : students that are trained, with the seeds `seed`, `seed` + 1 …
    baseline : train as many on the labels alone beside them
    at_sensitivity : where on the ROC curve the specificity is reported
    ordinal : classes are grades in their order: figures of grades are given
    select : what the epoch, and of several seeds the one on top, is chosen by on val
    aggregate : how the answers to a patient's images become one, in figures of patients
    finding : classes, the gravest first, of which one image is enough for the patient to have it
    workers : processes that decode images, 0 = none besides the one that trains; None = as many as are of use. No
        result depends on it
    resident : whether decoded images lie in the memory of the device that trains: ``auto``, if they fit. No result
        depends on it
    fast_kernels : on a GPU, let cuDNN take the kernels that it measures to be the fastest, which need not give the same
        bits each time
    """

    student: str = "resnet18"
    weights: str = "random"
    recipe: Literal["auto", "plain", "lp-ft"] = "auto"
    teach: Literal["auto", "probe", "ensemble"] = "auto"
    epochs: int | None = None
    batch_size: int = 64
    lr: float | None = None
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    image_size: int | None = None
    temperature: float = 2.0
    alpha: Alpha | Literal["auto", "per-class"] = 0.5
    loss: str = "kd"
    class_weight: Literal["none", "balanced"] = "none"
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    logit_adjustment: bool = False
    label_fraction: float = 1.0
    labelled_share: float = 0.5
    leave_one_domain_out: bool = False
    targets: Literal["canonical", "stored"] = "canonical"
    augment: str | None = None
    average: float = 0.1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    memory_layout: Literal["auto", "channels-first", "channels-last"] = "auto"
    on_missing: Literal["refuse", "drop"] = "refuse"
    labels: Literal["cache", "dataset"] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: int = 0
    seeds: int = 1
    baseline: bool = False
    at_sensitivity: float = 0.95
    ordinal: bool = False
    select: Literal["auroc", "kappa"] = "auroc"
    aggregate: Aggregate = "mean"
    finding: tuple[str, ...] = ()
    workers: int | None = None
    resident: Literal["auto", "on", "off"] = "auto"
    fast_kernels: bool = False

    def __post_init__(self) -> None:
        check_kinds(self, StudentError)
        _check(self.epochs is None or self.epochs >= 1, "--epochs", "a whole number from 1", self.epochs)
        # Batch normalisation has no variance over one image.
        _check(self.batch_size >= 2, "--batch-size", "a whole number from 2", self.batch_size)
        _check(self.lr is None or 0 < self.lr < math.inf, "--lr", "a positive number", self.lr)
        _check(self.image_size is None or self.image_size >= 8, "--image-size", "at least 8 pixels", self.image_size)
        _check(0 < self.temperature < math.inf, "--temperature", "a positive number", self.temperature)
        if isinstance(self.alpha, str):
            _check(
                self.alpha in ("auto", "per-class"), "--alpha", "a number from 0 to 1, auto or per-class", self.alpha
            )
        else:
            weights = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
            _check(all(0 <= one <= 1 for one in weights), "--alpha", "a number from 0 to 1", self.alpha)
        _check(self.seeds >= 1, "--seeds", "a whole number from 1", self.seeds)
        _check(0 < self.at_sensitivity <= 1, "--at-sensitivity", "above 0 and at most 1", self.at_sensitivity)
        _check(0 < self.label_fraction <= 1, "--label-fraction", "a share above 0, up to 1", self.label_fraction)
        _check(0 <= self.labelled_share <= 1, "--labelled-share", "a share from 0 to 1", self.labelled_share)
        against = (self.class_weight == "balanced", self.sampler == "balanced", self.logit_adjustment)
        if sum(against) > 1:
            raise StudentError(
                "--class-weight balanced, --sampler balanced and --logit-adjustment each correct the whole class "
                f"imbalance, and {sum(against)} of them were given; give one."
            )
        if self.select == "kappa" and not self.ordinal:
            raise StudentError("--select kappa needs grades; give --ordinal too.")
        _check(0 <= self.average <= 1, "average", "a number from 0 to 1", self.average)
        _check(self.workers is None or self.workers >= 0, "--workers", "a whole number from 0", self.workers)

    @property
    def patient_rule(self) -> PatientRule:
        """How images make a patient."""
        return PatientRule(self.aggregate, self.finding, self.ordinal)

    @property
    def soft_weight(self) -> Alpha:
        """The weight of the soft term, once it is decided."""
        if isinstance(self.alpha, str):
            raise StudentError(f"--alpha {self.alpha} has not been settled; `train_student` does that.")
        return self.alpha

    @property
    def trained(self) -> bool:
        """Whether the student starts from trained weights."""
        return self.weights != "random"

    @property
    def gentle(self) -> bool:
        """Whether the student is trained by linear probing, then fine-tuning."""
        return self.recipe == "lp-ft" or (self.recipe == "auto" and self.trained)

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, once nothing is left open."""
        return _RATES["lp-ft" if self.gentle else "plain"] if self.lr is None else self.lr

    def settled(self) -> StudentSettings:
        """Return the settings with recipe and learning rate named."""
        return replace(self, recipe="lp-ft" if self.gentle else "plain", lr=self.peak_rate)

    @property
    def compares_features(self) -> bool:
        """Whether the loss compares the student's embedding with the teacher's features."""
        return "feature" in self.loss and self.alpha != 0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that a result depends on as plain values for JSON."""
        found = {name: value for name, value in asdict(self).items() if name not in ("workers", "resident")}
        # Left out at their defaults, so that requests saved before these settings existed stay the same.
        for name in ("leave_one_domain_out", "labelled_share"):
            if not found[name]:
                del found[name]
        for name, usual in (
            ("aggregate", "mean"),
            ("fast_kernels", False),
            ("finding", ()),
            ("memory_layout", "auto"),
            ("ordinal", False),
            ("select", "auroc"),
        ):
            if found[name] == usual:
                del found[name]
        return found | {"alpha": list(self.alpha) if isinstance(self.alpha, tuple) else self.alpha}


def _check(right: bool, name: str, expected: str, got: object) -> None:
    if not right:
        raise StudentError(f"'{name}' must be {expected}, got {got!r}.")


def default_epochs(train_rows: int, image_size: int, *, trained: bool) -> int:
    """Return the default number of epochs for a train split.

    Parameters
    ----------
    image_size : side of the student's input, px
    trained : the student starts from trained weights
    """
    share = (_SHARE_OF_TRAINED if trained else 1.0) * min(1.0, _SIDE / image_size)
    most = round(_MOST_EPOCHS * (_SHARE_OF_TRAINED if trained else 1.0))
    return min(most, max(_FEWEST_EPOCHS, round(share * _IMAGES_SEEN / max(1, train_rows))))
