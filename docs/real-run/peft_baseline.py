"""The same LoRA fine-tuning with PEFT: what `sara train` is compared with.

peft_baseline.py --model DIR --train F.jsonl --valid F.jsonl [--epochs 4] [--seed 0]
peft_baseline.py --bench [--model DIR] --layers 12 --hidden 768 --heads 12 --intermediate 3072 --batch 8 --seq 128 --steps 20

Prints one JSON object: accuracy, seconds, step_ms (median from forward to optimizer step), peak_memory_bytes.
Dropout is 0 everywhere, as in `sara train` by default.
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig, get_scheduler

NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--train")
    parser.add_argument("--valid")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bench", action="store_true", help="time training steps on random ids, nothing else")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--intermediate", type=int, default=3072)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu", help="where --bench runs")
    return parser.parse_args()


def adapted(base):
    """LoRA on query and value; PEFT trains the classifier beside it and leaves a pooler frozen."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"])
    return get_peft_model(base, config).train()


class Loop:
    """Training steps, each timed from the forward pass to the end of the optimizer step."""

    def __init__(self, model, learning_rate, total):
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.0)
        self.scheduler = get_scheduler("linear", self.optimizer, num_warmup_steps=math.ceil(0.06 * total), num_training_steps=total)
        self.step_ms = []

    def step(self, inputs):
        start = time.perf_counter()
        self.model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if self.parameters[0].is_cuda:
            torch.cuda.synchronize()
        self.step_ms.append(1000 * (time.perf_counter() - start))
        self.scheduler.step()
        self.optimizer.zero_grad()


def report(loop, accuracy, seconds):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(json.dumps({"accuracy": accuracy, "seconds": seconds, "step_ms": statistics.median(loop.step_ms), "peak_memory_bytes": peak}))


def bench(options):
    if options.model:
        base = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=torch.float32, num_labels=2, **NO_DROPOUT)
    else:
        config = RobertaConfig(
            num_hidden_layers=options.layers, hidden_size=options.hidden, num_attention_heads=options.heads, intermediate_size=options.intermediate,
            vocab_size=50265, max_position_embeddings=max(514, options.seq + 2), type_vocab_size=1, layer_norm_eps=1e-5, num_labels=2, **NO_DROPOUT,
        )  # fmt: skip
        base = AutoModelForSequenceClassification.from_config(config)
    model = adapted(base).to(options.device)
    loop = Loop(model, options.learning_rate, options.steps)
    start = time.perf_counter()
    for _ in range(options.steps):
        ids = torch.randint(5, base.config.vocab_size, (options.batch, options.seq), device=options.device)
        labels = torch.randint(0, 2, (options.batch,), device=options.device)
        loop.step({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    report(loop, None, time.perf_counter() - start)


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.bench:
        return bench(options)
    train, valid = read(options.train), read(options.valid)
    names = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def encode(rows):
        texts = [row["text"] for row in rows]
        inputs = tokenizer(texts, max_length=options.max_tokens, truncation=True, padding="longest", return_tensors="pt")
        return dict(inputs) | {"labels": torch.tensor([names.index(row["label"]) for row in rows])}

    base = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=torch.float32, num_labels=len(names), **NO_DROPOUT)
    model = adapted(base)
    loop = Loop(model, options.learning_rate, options.epochs * math.ceil(len(train) / options.batch))
    start = time.perf_counter()
    for epoch in range(options.epochs):
        order = list(range(len(train)))
        random.Random(f"{options.seed} {epoch}").shuffle(order)
        for i in range(0, len(order), options.batch):
            loop.step(encode([train[j] for j in order[i : i + options.batch]]))
    seconds = time.perf_counter() - start
    model.eval()
    right = 0
    with torch.no_grad():
        for i in range(0, len(valid), 64):
            inputs = encode(valid[i : i + 64])
            right += (model(**inputs).logits.argmax(-1) == inputs["labels"]).sum().item()
    report(loop, right / len(valid), seconds)


if __name__ == "__main__":
    main()
