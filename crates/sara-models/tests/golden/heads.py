"""Heads with several targets at once: checkpoints as `encoders.py` makes them, their loss, and scikit-learn's multi-label metrics."""

import warnings

import encoders
import fixtures
import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

# Rows with no label, some, and all.
MULTI_TARGETS = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
REGRESSION_TARGETS = [[0.5, -1.25], [3.0, 0.0], [-2.0, 1.5], [0.75, -0.5]]


def names(labels):
    return dict(id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})


def add_loss(folder, model_class, last_layer, targets, by_hand):
    """Adds to `golden.safetensors` the model's own loss of its batch, and the gradient of the head's last layer."""
    path = folder / "golden.safetensors"
    golden, targets = load_file(path), torch.tensor(targets)
    model = fixtures.load(model_class, folder).eval()
    result = model(**{name: golden[name] for name in ("input_ids", "attention_mask", "token_type_ids")}, labels=targets)
    result.loss.backward()
    torch.testing.assert_close(result.logits.detach(), golden["logits"])
    expected = by_hand(result.logits.detach().double(), targets.double())
    torch.testing.assert_close(result.loss.detach().double(), expected, rtol=1e-5, atol=0.0)
    parameters = {f"{last_layer}.{kind}": model.get_parameter(f"{last_layer}.{kind}") for kind in ("weight", "bias")}
    gradients = {f"grad.{name}": parameter.grad for name, parameter in parameters.items()}
    fixtures.save(golden | {"targets": targets, "loss": result.loss} | gradients, path)


def binary_cross_entropy(logits, targets):
    """Mean over rows and labels alike."""
    return (torch.clamp(logits, min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))).mean()


def squared_error(logits, targets):
    """Mean over rows and outputs alike."""
    return ((logits - targets) ** 2).mean()


def multi_label(name, logits, targets):
    """A label is predicted where its probability is one half or more; every class counts in macro-F1, seen or not."""
    predictions = (np.array(logits) >= 0).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no label at all: F1 is 0 by `zero_division`
        values = {
            "micro_f1": f1_score(targets, predictions, average="micro", zero_division=0),
            "macro_f1": f1_score(targets, predictions, average="macro", zero_division=0),
            "subset_accuracy": accuracy_score(targets, predictions),
        }
    case = {"name": name, "logits": logits, "targets": targets, "predictions": predictions.tolist()}
    return case | {key: float(value) for key, value in values.items()}


def metrics():
    mixed = [[2.0, -1.0, 0.25], [-0.5, 1.5, -3.0], [0.75, 0.5, -0.25], [-2.0, -1.5, 1.0], [1.25, -0.75, 0.5]]
    return [
        multi_label("three classes", mixed, [[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]]),
        multi_label("all right", [[2.0, -1.0, 0.5], [-1.0, 3.0, -0.5], [1.0, 1.0, 1.0]], [[1, 0, 1], [0, 1, 0], [1, 1, 1]]),
        multi_label("all wrong", [[2.0, -1.0, 0.5], [-1.0, 3.0, -0.5]], [[0, 1, 0], [1, 0, 1]]),
        multi_label("a class that never occurs nor is predicted, the rest right", [[1.0, -1.0, -2.0], [-1.0, 1.0, -2.0]], [[1, 0, 0], [0, 1, 0]]),
        multi_label("a class that never occurs but is predicted", [[1.0, -1.0, 2.0], [-1.0, 1.0, -2.0]], [[1, 0, 0], [0, 1, 0]]),
        multi_label("a class that is never predicted", [[1.0, -1.0, -2.0], [-1.0, 1.0, -2.0], [1.0, 1.0, -1.0]], [[1, 0, 1], [0, 1, 0], [1, 1, 1]]),
        multi_label("no label anywhere", [[-1.0, -2.0], [-0.5, -3.0]], [[0, 0], [0, 0]]),
        multi_label("nothing predicted", [[-1.0, -2.0], [-0.5, -3.0]], [[1, 0], [0, 1]]),
        multi_label("everything predicted", [[1.0, 2.0], [0.5, 3.0], [0.25, 1.0]], [[1, 0], [0, 1], [0, 0]]),
        multi_label("logits of zero are predicted, of either sign", [[0.0, -0.0, -1.0], [-0.0, -1.0, 0.0]], [[1, 0, 0], [1, 0, 1]]),
        multi_label("classes of very different sizes", [[1.0, -1.0]] * 5 + [[-1.0, 1.0], [1.0, 1.0]], [[1, 0]] * 4 + [[0, 0], [0, 1], [1, 0]]),
        multi_label("one row", [[1.0, -1.0, 2.0, -2.0]], [[1, 1, 0, 0]]),
    ]


def generate(out):
    roberta, bert = encoders.byte_level_bpe(), encoders.word_piece()
    multi, regression = transformers.RobertaForSequenceClassification, transformers.BertForSequenceClassification
    config = encoders.roberta_config(roberta, problem_type="multi_label_classification", **names(["joy", "anger", "fear"]))
    encoders.make(out / "roberta-multi", "roberta", multi, config, 110)
    add_loss(out / "roberta-multi", multi, "classifier.out_proj", MULTI_TARGETS, binary_cross_entropy)
    config = encoders.bert_config(bert, problem_type="regression", **names(["valence", "arousal"]))
    encoders.make(out / "bert-reg2", "bert", regression, config, 120)
    add_loss(out / "bert-reg2", regression, "classifier", REGRESSION_TARGETS, squared_error)
    fixtures.write_json({"multi_label": metrics()}, fixtures.fresh(out / "heads") / "metrics.json")


if __name__ == "__main__":
    fixtures.main(generate)
