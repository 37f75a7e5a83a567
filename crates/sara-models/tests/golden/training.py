"""Training runs of PEFT, step by step: plain LoRA with accumulation and clipping, and AdaLoRA with its allocation."""

import fixtures
import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, TaskType, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import RobertaForSequenceClassification

BASE = "roberta-cls3"
CLIP = 1.0
RANK = 6  # AdaLoRA's initial rank
ADAMW = dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)


def adapted(config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(fixtures.load(RobertaForSequenceClassification, BASE), config)
    return model.train()


def batches(seed, config, count):
    """`count` micro-batches of four rows of 3 to 10 tokens, padded to 10; labels at random."""
    rng = np.random.default_rng(seed)
    made = [fixtures.batch(rng, config, [10, *rng.integers(3, 11, 3)]) for _ in range(count)]
    labels = [torch.from_numpy(rng.integers(0, 3, 4)) for _ in range(count)]
    return [{"input_ids": b["input_ids"], "attention_mask": b["attention_mask"], "labels": l} for b, l in zip(made, labels)]


def stacked(made, *shape):
    return {f"batches.{name}": torch.stack([b[name] for b in made]).reshape(*shape, *made[0][name].shape) for name in made[0]}


def named(prefix, tensors):
    return {f"{prefix}.{name}": value.detach().clone() for name, value in tensors.items()}


def lora(out):
    """Ten steps of two micro-batches each."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=["query", "value"])
    model = adapted(config, 7)
    parameters = fixtures.trained(model)
    rng = np.random.default_rng(8)
    made = batches(9, model.config, 20)
    with torch.no_grad():
        for name, value in parameters.items():
            if "lora_B" in name:  # B = 0 would keep the gradient from A in the first step
                value.copy_(fixtures.normal(rng, *value.shape, std=0.02))
        # A confident head, and for three steps the labels that it gives: gradients small enough to pass unclipped.
        parameters["base_model.model.classifier.out_proj.weight"].mul_(6)
        for one in made[4:10]:
            one["labels"] = model(one["input_ids"], one["attention_mask"]).logits.argmax(-1)

    folder = fixtures.fresh(out / "training-lora")
    fixtures.save_adapter(model, folder / "initial", BASE)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, **ADAMW)
    losses, norms, record = [], [], {}
    for step in range(10):
        for one in made[2 * step : 2 * step + 2]:
            loss = model(**one).loss
            (loss / 2).backward()
            losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP))
        if step == 0:
            record |= named("gradient1", {name: value.grad for name, value in parameters.items()})
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, 9):
            record |= named(f"step{step + 1}", parameters)
    record |= {"losses": torch.stack(losses).reshape(10, 2), "gradient_norms": torch.stack(norms)}
    fixtures.save(record | stacked(made, 10, 2), folder / "golden.safetensors")
    clipped = sum(norm > CLIP for norm in norms)
    print(f"training-lora: {clipped} of 10 steps clipped, norms {min(norms):.3f} to {max(norms):.3f}")
    assert 0 < clipped < 10


def distance_from_orthogonal(factor):
    gram = factor @ factor.T if factor.shape[0] == RANK else factor.T @ factor
    return torch.linalg.norm(gram - torch.eye(RANK))


def watch_scores(allocator, names):
    """Collects the scores `[modules, RANK]` that each masking of PEFT's allocator ranks."""
    seen, mask = [], allocator.mask_to_budget

    def watched(model, budget):
        part = lambda name, factor: allocator._element_score(f"{name}.{factor}.default")
        rows = [part(n, "lora_E").flatten() + part(n, "lora_A").mean(1) + part(n, "lora_B").mean(0) for n in names]
        seen.append(torch.stack(rows))
        return mask(model, budget)

    allocator.mask_to_budget = watched
    return seen


def margin(scores, zeroed):
    """Distance between the worst kept and the best dropped score, relative to the latter."""
    best_dropped = scores[zeroed].max()
    return (scores[~zeroed].min() - best_dropped) / best_dropped


def adalora(out):
    """Sixty steps over four batches; the budget falls from 6 to 2 ranks a module."""
    config = AdaLoraConfig(
        task_type=TaskType.SEQ_CLS, init_r=RANK, target_r=2, lora_alpha=8, tinit=10, tfinal=20, deltaT=3, total_step=60,
        beta1=0.85, beta2=0.85, orth_reg_weight=0.1, target_modules=["query", "key", "value", "attention.output.dense"],
    )  # fmt: skip
    model = adapted(config, 11)
    parameters = fixtures.trained(model)
    made = batches(12, model.config, 4)
    scales = {name: value for name, value in parameters.items() if name.endswith("lora_E")}
    modules = [name.removeprefix("base_model.model.").removesuffix(".lora_E") for name in scales]
    factors = [value for name, value in parameters.items() if name.endswith(("lora_A", "lora_B"))]
    allocator = model.base_model.rankallocator
    scores = watch_scores(allocator, modules)

    folder = fixtures.fresh(out / "training-adalora")
    fixtures.save_adapter(model, folder / "initial", BASE)
    optimizer = torch.optim.AdamW(parameters.values(), lr=5e-3, **ADAMW)
    record, trace, maskings = named("step0", parameters), [], []
    for step in range(60):
        one = made[step % 4]
        result = model(**one)
        # The two terms of PEFT's loss, from the parameters that this forward pass saw.
        task = cross_entropy(result.logits.detach(), one["labels"])
        penalty = 0.1 * torch.stack([distance_from_orthogonal(value.detach()) for value in factors]).mean()
        torch.testing.assert_close(task + penalty, result.loss.detach())
        result.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)
        if step == 0:
            record |= named("gradient1", {name: value.grad for name, value in parameters.items()})
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()

        zeroed = torch.stack([(value == 0).flatten() for value in scales.values()])
        budget = torch.tensor(allocator.budget_schedule(step)[0])
        trace.append({"task_losses": task, "penalties": penalty, "gradient_norms": norm, "zeroed": zeroed, "budgets": budget})
        if len(scores) > len(maskings):
            assert (~zeroed).sum() == budget
            maskings.append((step, margin(scores[-1], zeroed)))
        if step + 1 in (1, 13, 41, 60):
            record |= named(f"step{step + 1}", parameters)
    record |= {name: torch.stack([row[name] for row in trace]) for name in trace[0]}
    record |= {
        "mask_steps": torch.tensor([step for step, _ in maskings]),
        "mask_margins": torch.stack([value for _, value in maskings]),
        "mask_scores": torch.stack(scores),
    }
    fixtures.save(record | stacked(made, 4), folder / "golden.safetensors")
    fixtures.write_json(modules, folder / "modules.json")
    fixtures.save_adapter(model, folder / "final", BASE)
    print(f"training-adalora: smallest margin of a masking {record['mask_margins'].min():.4f}, "
          f"{(record['gradient_norms'] > CLIP).sum()} of 60 steps clipped")  # fmt: skip


def generate(out):
    lora(out)
    adalora(out)


if __name__ == "__main__":
    fixtures.main(generate)
