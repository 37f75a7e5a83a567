"""torch's AdamW, clipping and learning-rate schedules in isolation, and the metrics of scikit-learn and SciPy."""

import math
import warnings

import fixtures
import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import get_scheduler

TOTAL = 101
WARMUP = math.ceil(0.06 * TOTAL)


def adamw(initial, gradients, rates):
    """Parameters after each update `[steps, 5, 3]`."""
    parameter = torch.nn.Parameter(initial.clone())
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    after = []
    for gradient, rate in zip(gradients, rates):
        optimizer.param_groups[0]["lr"] = rate.item()
        parameter.grad = gradient.clone()
        optimizer.step()
        after.append(parameter.detach().clone())
    return torch.stack(after)


def schedule(kind):
    """Factor on the learning rate at each of the TOTAL updates, f64."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=WARMUP, num_training_steps=TOTAL)
    factors = []
    for _ in range(TOTAL):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return torch.tensor(factors, dtype=torch.float64)


def clipping(rng):
    """Two gradients clipped together: above the limit, below it, at it exactly, and zero."""
    tensors = {}
    a, b = fixtures.normal(rng, 2, 3), fixtures.normal(rng, 4)
    exact = (torch.tensor([[3.0, 0, 0], [0, 0, 0]]), torch.tensor([0, 4.0, 0, 0]))
    cases = {"above": (a, b, 0.5), "below": (a, b, 50.0), "exact": (*exact, 5.0), "zero": (0 * a, 0 * b, 1.0)}
    for case, (a, b, limit) in cases.items():
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in (a, b)]
        for parameter, gradient in zip(parameters, (a, b)):
            parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        tensors |= {f"clip.{case}.gradient.a": a, f"clip.{case}.gradient.b": b, f"clip.{case}.limit": torch.tensor(limit), f"clip.{case}.norm": norm}
        tensors |= {f"clip.{case}.clipped.a": parameters[0].grad, f"clip.{case}.clipped.b": parameters[1].grad}
    return tensors


def classification(name, labels, predictions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class: Matthews is 0 by scikit-learn's convention
        values = {
            "accuracy": accuracy_score(labels, predictions),
            "macro_f1": f1_score(labels, predictions, average="macro", zero_division=0),
            "matthews": matthews_corrcoef(labels, predictions),
        }
    return {"name": name, "labels": labels, "predictions": predictions} | {key: float(value) for key, value in values.items()}


def regression(name, targets, predictions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant input: both give NaN, written as null
        values = {"pearson": pearsonr(targets, predictions)[0], "spearman": spearmanr(targets, predictions)[0]}
    values = {key: None if math.isnan(value) else float(value) for key, value in values.items()}
    return {"name": name, "targets": targets, "predictions": predictions} | values


def generate(out):
    rng = np.random.default_rng(1)
    initial, gradients = fixtures.normal(rng, 5, 3), fixtures.normal(rng, 6, 5, 3, std=0.5)
    gradients[:, 0, 0] = 0.0  # weight decay alone
    gradients[:, 1, 1] *= 2e-8  # as small as eps: shows on which side of the root it stands
    constant = torch.full((6,), 1e-2, dtype=torch.float64)
    tensors = {"initial": initial, "gradients": gradients}
    for case, rates in {"constant": constant, "scheduled": 1e-2 * schedule("linear")[:6]}.items():
        tensors |= {f"{case}.learning_rates": rates, f"{case}.parameters": adamw(initial, gradients, rates)}
    tensors |= {f"schedule.{kind}": schedule(kind) for kind in ("linear", "cosine")} | clipping(rng)
    folder = fixtures.fresh(out / "optimizer")
    fixtures.save(tensors, folder / "golden.safetensors")

    metrics = {
        "classification": [
            classification("three classes", [0, 1, 2, 2, 1, 0, 2, 0, 1, 2], [0, 2, 2, 2, 1, 1, 0, 0, 1, 2]),
            classification("one class predicted", [0, 1, 1, 0, 2], [1, 1, 1, 1, 1]),
            classification("one class everywhere", [1, 1, 1], [1, 1, 1]),
            classification("a class seen on one side only", [0, 0, 1, 1], [0, 3, 1, 1]),
        ],
        "regression": [
            regression("no ties", [0.5, 2.0, 1.25, 4.0, 3.5, 5.0], [0.75, 1.5, 1.0, 3.0, 4.5, 4.25]),
            regression("ties on both sides", [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0], [2.0, 1.0, 2.0, 2.0, 5.0, 5.0, 3.0]),
            regression("constant predictions", [1.0, 2.0, 3.0], [2.5, 2.5, 2.5]),
        ],
    }
    fixtures.write_json(metrics, folder / "metrics.json")


if __name__ == "__main__":
    fixtures.main(generate)
