"""What the generators of this folder share: seeded weights, inputs, saving, and the comparison behind `--check`."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.disable_progress_bar()


def main(generate):
    """Runs `generate(out)`; with `--check` into a temporary folder that is compared with this one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--check", action="store_true", help="regenerate elsewhere and compare")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of max(1, largest element of the tensor)")
    arguments = parser.parse_args()
    if not arguments.check:
        arguments.out.mkdir(parents=True, exist_ok=True)
        generate(arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        differences = compare_folders(Path(folder), arguments.out, arguments.tolerance)
    for line in differences:
        print(line, file=sys.stderr)
    sys.exit(1 if differences else 0)


def fresh(folder):
    """An empty folder in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def normal(rng, *shape, std=1.0, mean=0.0):
    """f32 values from a NumPy generator: torch's own normal depends on the instruction set."""
    return torch.from_numpy((mean + std * rng.standard_normal(shape)).astype(np.float32))


def randomise(model, seed):
    """Overwrites every parameter with values large enough to show any error: std 0.3, norm weights around 1."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            gain = name.endswith("LayerNorm.weight") or name.endswith("layer_norm.weight")
            parameter.copy_(normal(rng, *parameter.shape, std=0.3, mean=1.0 if gain else 0.0))


def batch(rng, config, lengths, width=None):
    """Right-padded random ids; in BERT the second half of each row has token type 1. Special ids only where they belong."""
    width = width or max(lengths)
    pad = config.pad_token_id
    first, last = (0, 2) if config.model_type == "roberta" else (2, 3)
    ids = np.full((len(lengths), width), pad)
    types = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, config.vocab_size, length)
        ids[row, 0], ids[row, length - 1] = first, last
        if config.model_type == "bert":
            types[row, length // 2 : length] = 1
    ids = torch.from_numpy(ids)
    return {"input_ids": ids, "attention_mask": (ids != pad).long(), "token_type_ids": torch.from_numpy(types)}


def outputs(model, inputs):
    """Evaluation-mode outputs: `last_hidden_state`, and `logits` or `pooler_output` where the model has them."""
    model.eval()
    with torch.no_grad():
        result = model(**inputs, output_hidden_states=True)
    tensors = {"last_hidden_state": result.hidden_states[-1]}
    for name in ("logits", "pooler_output"):
        if getattr(result, name, None) is not None:
            tensors[name] = getattr(result, name)
    return tensors


def save(tensors, path):
    """One safetensors file of contiguous copies."""
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path, {"format": "pt"})


def write_json(value, path):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compare_folders(made, kept, tolerance):
    """Differences between every case folder under `made` and its namesake under `kept`, one line each."""
    differences = []
    for case in sorted(path for path in made.iterdir()):
        files = lambda root: {path.relative_to(root) for path in (root / case.name).rglob("*") if path.is_file()}
        for name in sorted(files(made) ^ files(kept)):
            differences.append(f"{name}: only in one of the two folders")
        for name in sorted(files(made) & files(kept)):
            differences += [f"{name}: {text}" for text in compare_files(made / name, kept / name, tolerance)]
    return differences


def compare_files(made, kept, tolerance):
    if made.suffix == ".safetensors":
        return compare_tensors(load_file(made), load_file(kept), tolerance)
    if made.suffix == ".json":
        return compare_values(json.loads(made.read_text()), json.loads(kept.read_text()), "$", tolerance)
    return [] if made.read_bytes() == kept.read_bytes() else ["other bytes"]


def compare_tensors(made, kept, tolerance):
    differences = [f"{name} is only in one of the two files" for name in sorted(made.keys() ^ kept.keys())]
    for name in sorted(made.keys() & kept.keys()):
        ours, theirs = made[name], kept[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            differences.append(f"{name} is {ours.dtype} {list(ours.shape)}, was {theirs.dtype} {list(theirs.shape)}")
        elif ours.numel():
            error = (ours.double() - theirs.double()).abs().max().item()
            if not error <= tolerance * max(1.0, theirs.double().abs().max().item()):
                differences.append(f"{name} differs by {error:.3g}")
    return differences


def compare_values(made, kept, path, tolerance):
    if isinstance(made, dict) and isinstance(kept, dict) and made.keys() == kept.keys():
        return [line for key in made for line in compare_values(made[key], kept[key], f"{path}.{key}", tolerance)]
    if isinstance(made, list) and isinstance(kept, list) and len(made) == len(kept):
        return [line for i, pair in enumerate(zip(made, kept)) for line in compare_values(*pair, f"{path}[{i}]", tolerance)]
    if isinstance(made, float) and isinstance(kept, float) and abs(made - kept) <= tolerance * max(1.0, abs(kept)):
        return []
    return [] if made == kept else [f"{path} is {made!r}, was {kept!r}"]


def load(model_class, name, **options):
    """One of the checkpoints of `encoders.py` in f32, eager attention, without dropout."""
    return model_class.from_pretrained(
        HERE / name, attn_implementation="eager", dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options
    )


def save_adapter(model, folder, base):
    """`save_pretrained` of PEFT, without its model card, with a relative base name and its sets in a fixed order."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def trained(model):
    """Trained parameters by the name under which PEFT saves them."""
    short = lambda name: name.replace(".default", "").replace(".modules_to_save", "")
    return {short(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
