#!/usr/bin/env bash
# Checks training on a GPU against the CPU, then times a step of every method at RoBERTa-base's shape beside PEFT's LoRA.
#
#   SARA=target/release/sara DEVICES="cuda wgpu" bash docs/gpu-check.sh
#
# Builds nothing: SARA is a binary with these devices compiled in (`--features cuda,wgpu`). python3 with torch,
# transformers and peft makes the random checkpoint and the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sara=$(realpath "${SARA:-target/release/sara}")
read -ra devices <<<"${DEVICES:-cuda wgpu}"
methods=(lora sara mo_sara adalora prilora melora bayesian_lora lorta taps)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
assets=$PWD/crates/sara-models/assets
# Where PEFT runs in the same round: on the GPU if torch finds one.
peft_device=$(python3 -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
base=$PWD/docs/real-run/peft_baseline.py

run_file() { # model, data, optimizer
    printf 'model = "%s"\noutput = "%s/run"\ntargets = ["query", "value"]\n[data]\ntrain = "%s"\nvalid = "%s"\n[optimizer]\n%s\n' \
        "$1" "$work" "$2" "$2" "$3" >"$work/run.toml"
}

train() { # device, method
    rm -rf "$work/run"
    "$sara" train --config "$work/run.toml" --device "$1" --json "method={$2={}}" 2>"$work/log" || {
        tail -n 3 "$work/log" >&2
        return 1
    }
}

# 1. The losses of ten steps. Bayesian-LoRA draws its gates from the device, so its losses are shown and not compared.
head -n 64 "$assets/train.jsonl" >"$work/few.jsonl"
run_file "$assets/model" "$work/few.jsonl" $'batch_size = 8\nmax_steps = 10\nlearning_rate = 1e-2'
failed=0
for method in "${methods[@]}"; do
    train cpu "$method" >/dev/null
    cp "$work/run/metrics.jsonl" "$work/cpu.jsonl"
    for device in "${devices[@]}"; do
        train "$device" "$method" >/dev/null
        python3 - "$method" "$device" "$work/cpu.jsonl" "$work/run/metrics.jsonl" <<'PY' || failed=1
import json, sys
method, device, *files = sys.argv[1:]
cpu, gpu = ([r["loss"] for r in map(json.loads, open(f)) if "loss" in r] for f in files)
assert len(cpu) == len(gpu) == 10
error = max(abs(a - b) / a for a, b in zip(cpu, gpu))
compared = method != "bayesian_lora"
print(f"losses  {method:14} {device:5} largest relative difference {error:.1e}{'' if compared else ' (not compared)'}", flush=True)
sys.exit(compared and error >= 1e-3)
PY
    done
done
[ "$failed" = 0 ] || { echo "the losses differ: no times are taken" >&2; exit 1; }

# 2. Times: RoBERTa-base's shape, 8 x 128 tokens.
python3 - "$work" "$assets" <<'PY'
import json, random, shutil, sys, torch
from transformers import RobertaConfig, RobertaModel
work, assets = sys.argv[1:]
torch.manual_seed(0)
words = json.load(open(f"{assets}/model/tokenizer.json"))["model"]["vocab"]
config = RobertaConfig(vocab_size=max(len(words), 1000), hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                       intermediate_size=3072, max_position_embeddings=514, type_vocab_size=1)
RobertaModel(config).save_pretrained(f"{work}/base")
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{assets}/model/{name}", f"{work}/base/{name}")
lines = [json.loads(line)["text"] for line in open(f"{assets}/train.jsonl")]
rng = random.Random(0)
with open(f"{work}/long.jsonl", "w") as out:
    for row in range(160):
        text = " ".join(rng.sample(lines, 24))
        out.write(json.dumps({"text": text, "label": "even" if row % 2 == 0 else "odd"}) + "\n")
PY
run_file "$work/base" "$work/long.jsonl" $'batch_size = 8\nmax_steps = 20'
sed -i 's/^\[optimizer\]/max_tokens = 128\n[optimizer]/' "$work/run.toml"
for round in 1 2; do
    for device in "${devices[@]}"; do
        for method in "${methods[@]}"; do
            train "$device" "$method" | python3 -c "
import json, sys
r = json.load(sys.stdin)
print(f\"step    {'$method':14} {'$device':5} {r['step_ms']:8.1f} ms\", flush=True)"
        done
    done
    python3 "$base" --bench --device "$peft_device" --layers 12 --hidden 768 --heads 12 --intermediate 3072 --batch 8 --seq 128 --steps 20
done
