"""Adapters that PEFT trained for a few steps and saved, with the outputs of the adapted models."""

import warnings

import fixtures
import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, RobertaForSequenceClassification

STEPS = 20
QUERY = "roberta.encoder.layer.{}.attention.self.query"


def train(model, seed, steps=STEPS):
    """AdamW on one random batch; PEFT's AdaLoRA also allocates its ranks."""
    rng = np.random.default_rng(seed)
    inputs = fixtures.batch(rng, model.config, [11, 7, 14, 3, 9, 12])
    labels = torch.from_numpy(rng.integers(0, model.config.num_labels, 6))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-2, weight_decay=0.01)
    model.train()
    for step in range(steps):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def make(out, case, model_class, base, config, seed, steps=STEPS):
    torch.manual_seed(seed)
    model = get_peft_model(fixtures.load(model_class, base), config)
    train(model, seed, steps)
    folder = fixtures.fresh(out / case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*invalid shape.*")  # a module of rank 0, on purpose
        fixtures.save_adapter(model, folder, base)

    golden = load_file(fixtures.HERE / base / "golden.safetensors")
    inputs = {name: golden[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    expected = fixtures.outputs(model, inputs)
    reloaded = fixtures.outputs(PeftModel.from_pretrained(fixtures.load(model_class, base), folder), inputs)
    for name in expected:
        torch.testing.assert_close(reloaded[name], expected[name], rtol=0, atol=1e-5)
    # The hidden state does not see the head: it moves only by the adapter.
    change = (expected["last_hidden_state"] - golden["last_hidden_state"]).abs().max().item()
    print(f"{case}: hidden states moved by up to {change:.2f}")
    assert change > 0.1
    fixtures.save({**inputs, **expected}, folder / "golden.safetensors")


def generate(out):
    roberta, bert = RobertaForSequenceClassification, BertForSequenceClassification
    patterns = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=4, lora_alpha=6, target_modules=["query", "value", "intermediate.dense", "output.dense"],
        # One module by its path, one kind of module by its name, one module with a rank alone and one with an alpha alone.
        rank_pattern={QUERY.format(0): 2, "value": 3, r"layer\.1\.intermediate\.dense": 5},
        alpha_pattern={QUERY.format(0): 7, "value": 5, QUERY.format(1): 10},
    )  # fmt: skip
    make(out, "peft-lora-patterns", roberta, "roberta-cls3", patterns, 1)

    # "dense" also names BERT's pooler: once kept out, once adapted.
    rs = lambda **options: LoraConfig(
        task_type=TaskType.SEQ_CLS, r=3, lora_alpha=4, use_rslora=True, target_modules=["query", "value", "dense"], **options
    )
    make(out, "peft-lora-rs", bert, "bert-cls3", rs(exclude_modules=["bert.pooler.dense"]), 2)
    make(out, "peft-lora-pooler", bert, "bert-cls3", rs(), 3)

    ada = lambda target, modules: AdaLoraConfig(
        task_type=TaskType.SEQ_CLS, init_r=6, target_r=target, lora_alpha=8, tinit=4, tfinal=6, deltaT=3, total_step=24,
        beta1=0.85, beta2=0.85, orth_reg_weight=0.1, target_modules=modules,
    )  # fmt: skip
    make(out, "peft-adalora", roberta, "roberta-cls3", ada(2, ["value", "attention.output.dense"]), 4, 24)
    make(out, "peft-adalora-rank0", roberta, "roberta-cls3", ada(1, ["query", "key", "value", "dense"]), 5, 24)

    # No task type: the head of the checkpoint stays as it is and is not saved.
    headless = LoraConfig(r=4, lora_alpha=10, target_modules=["query", "value"])
    make(out, "peft-lora-headless", roberta, "roberta-cls3", headless, 6)


if __name__ == "__main__":
    fixtures.main(generate)
