"""Compares logits that `sara predict` wrote with those of transformers and PEFT for an exported adapter.

interop.py --model DIR --adapter PEFT_DIR --predictions OURS.jsonl --data F.jsonl

Prints the largest absolute difference; exit code 1 above 1e-4, or if PEFT has anything to warn about.
"""

import argparse
import json
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4
MAX_LENGTH = 128  # or what the positions of the checkpoint allow


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def load(model_dir, adapter_dir):
    """The adapted model; a key that is missing, unexpected or of another shape ends the program."""
    with safe_open(f"{adapter_dir}/adapter_model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    head = shapes.get("base_model.model.classifier.out_proj.bias", shapes.get("base_model.model.classifier.bias"))
    labels = {} if head is None else {"num_labels": head[0], "ignore_mismatched_sizes": True}
    base, report = AutoModelForSequenceClassification.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **labels
    )
    replaced = ("classifier.",) if head is not None else ()
    random = [name for name in report["missing_keys"] if not name.startswith(replaced)]
    if random:
        sys.exit(f"{model_dir} has no {', '.join(sorted(random))}: the logits would be random")
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):  # what PEFT says of keys that match nothing or are absent
            warnings.simplefilter("error", category)
        try:
            model = PeftModel.from_pretrained(base, adapter_dir).eval()
        except (UserWarning, RuntimeWarning, RuntimeError, KeyError, ValueError) as error:
            sys.exit(f"PEFT does not load {adapter_dir} cleanly: {error}")
    expected = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()}
    if expected != shapes:
        sys.exit(f"tensors that differ from what PEFT loads: {sorted(expected.items() ^ shapes.items())}")
    return model


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "adapter", "predictions", "data"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    data, ours = lines(arguments.data), lines(arguments.predictions)
    if len(data) != len(ours) or not data:
        sys.exit(f"{len(ours)} predictions for {len(data)} examples")
    model, tokenizer = load(arguments.model, arguments.adapter), AutoTokenizer.from_pretrained(arguments.model)
    config = model.base_model.config
    unusable = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    max_length = min(MAX_LENGTH, config.max_position_embeddings - unusable)
    worst = 0.0
    for row, prediction in zip(data, ours):
        inputs = tokenizer(row["text"], row.get("text_pair"), max_length=max_length, truncation="longest_first", return_tensors="pt")
        with torch.no_grad():
            theirs = model(**inputs).logits[0]
        mine = torch.tensor(prediction["logits"])
        if mine.shape != theirs.shape:
            sys.exit(f"{mine.numel()} logits where PEFT gives {theirs.numel()}")
        difference = (mine - theirs).abs().max().item()
        worst = max(worst, difference if difference == difference else float("inf"))
    print(f"largest absolute difference of {len(data)} x {theirs.numel()} logits: {worst:.3g}")
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
