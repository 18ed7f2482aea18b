"""How a student was trained, in words: what a methods section needs beyond the list of settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...cache.text import plural

__all__ = ["describe_methods"]

# The papers of the soft terms, as their functions in `losses` name them.
_PAPERS = {
    "kd": "Hinton et al. 2015, arXiv:1503.02531",
    "dkd": "Zhao et al. 2022, arXiv:2203.08679",
    "dist": "Huang et al. 2022, arXiv:2205.10536",
    "mse": "standardised logits, Kim et al. 2021, arXiv:2105.08919",
    "feature": "cosine, a hint as in Romero et al. 2015, arXiv:1412.6550",
}
_AGAINST_IMBALANCE: Mapping[str, Mapping[Any, str]] = {
    "class_weight": {"balanced": "the hard loss weighs classes by the inverse of their frequency"},
    "sampler": {"balanced": "every class equally often in an epoch"},
    "logit_adjustment": {True: "log class frequencies added to the logits of the hard loss (arXiv:2007.07314)"},
}
_SELECT = {"auroc": "AUROC", "kappa": "weighted kappa"}
_TAUGHT = {
    "ensemble": (
        "the mean of the probe and of a student trained on the labels alone, scaled to the same confidence; for "
        "labelled images, the probe's out-of-fold answer"
    ),
    "probe": "the probe",
    "none": "none: labels alone, as chosen on val",
}


def describe_methods(description: Mapping[str, Any]) -> dict[str, str]:
    """Return how the students of a run were trained, by what it is about.

    Parameters
    ----------
    description : run.json
    """
    request = description["request"]
    began = {"random": "random weights", "pretrained": "timm's trained weights"}
    best = f"the epoch with the best {_SELECT[request.get('select', 'auroc')]} on val"
    found = {
        "start": began.get(request["weights"], f"the weights '{request['weights']}'"),
        "loss": _loss(description),
        "optimiser": f"AdamW, learning rate {request['lr']:g} after {request['warmup_epochs']:g} epoch of linear "
        f"warm-up, then a cosine down to 0, weight decay {request['weight_decay']:g}",
        "budget": f"{_epochs(request['epochs'])} in batches of {request['batch_size']}",
        "what is kept": description.get("kept", best) + _averaged(request["average"]),
        "seeds": _seeds(request["seed"], request["seeds"]),
        "computed": f"in {description['precision']['precision']} on {_devices(description['trained_on'])}",
    }
    against = [words[request[name]] for name, words in _AGAINST_IMBALANCE.items() if request.get(name) in words]
    if against:
        found["rare classes"] = against[0]
    if request.get("labelled_share"):
        found["labelled images"] = f"at least {100 * request['labelled_share']:g} % of every batch, repeated if needed"
    if request.get("recipe") == "lp-ft":
        found["schedule"] = (
            "linear probing, then fine-tuning (Kumar et al., ICLR 2022): the head is fitted on the frozen embedding, "
            "then all weights learn, batch normalisation frozen"
        )
    if description.get("began_with") == "baseline":
        found["start"] += "; the student starts from the trained weights of its baseline"
        found["budget"] += ", for the baseline and again for the student"
    if taught := _TAUGHT.get(description.get("taught_by", "")):
        found["teacher of the images without a label"] = taught
    if request.get("also"):
        found["further teachers"] = f"the logits of {len(request['also'])} more, averaged with this one's"
    return found


def _loss(description: Mapping[str, Any]) -> str:
    several = description["task"] == "multilabel"
    hard = "binary cross-entropy of each label" if several else "cross-entropy"
    request = description["request"]
    # If each domain is held out in turn, each part has chosen its own values.
    alpha, temperature = (description.get(name, request[name]) for name in ("alpha", "temperature"))
    target = description.get("target", f"{request['targets']} view")
    chosen = request["alpha"] == "auto"
    if alpha == 0:
        return f"{hard}, labels alone{', as chosen on val' if chosen else ''}"
    loss = description.get("loss", request["loss"])
    names = re.findall("[a-z]+", loss)
    soft = loss if len(names) == 1 else f"({loss})"
    text = f"(1 − α) · {hard} + α · {soft}, α {_weight(alpha, description['classes'])}, temperature {temperature:g}"
    if chosen:
        text += ", both chosen on val"
    return f"{text}; {', '.join(f'{name}: {_PAPERS[name]}' for name in names)}; soft targets of the {target}"


def _weight(alpha: float | str | Sequence[float], classes: Sequence[str]) -> str:
    if isinstance(alpha, str):
        return alpha
    if isinstance(alpha, int | float):
        return f"{alpha:g}"
    each = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(classes, alpha, strict=True))
    return f"by the teacher's out-of-fold recall of each class ({each})"


def _epochs(count: int | Mapping[str, int]) -> str:
    if isinstance(count, int):
        return f"{count} {plural(count, 'epoch')}"
    return "epochs " + ", ".join(f"{each} without {name}" for name, each in count.items())


def _averaged(share: float) -> str:
    return f"; its weights are a running average over about {100 * share:g} % of all steps" if share else ""


def _seeds(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first} to {first + count - 1}"


def _devices(trained_on: Sequence[Mapping[str, Any]]) -> str:
    return ", then ".join(dict.fromkeys(str(one["device"]) for one in trained_on))
