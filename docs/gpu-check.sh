#!/usr/bin/env bash
# Checks training and writing on a GPU against the CPU, then times a step of every method at RoBERTa-base's shape beside
# PEFT's LoRA, and training and writing at LLaMA-3.2-1B's shape beside PEFT and transformers.
#
#   SARA=target/release/sara DEVICES="cuda wgpu" PARTS="encoder writer" bash docs/gpu-check.sh
#
# Builds nothing: SARA is a binary with these devices compiled in (`--features cuda,wgpu`). python3 with torch,
# transformers and peft makes the random checkpoint and the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sara=$(realpath "${SARA:-target/release/sara}")
read -ra devices <<<"${DEVICES:-cuda wgpu}"
parts=" ${PARTS:-encoder writer} "
has() { [[ $parts == *" $1 "* ]]; }
for part in $parts; do
    [[ $part =~ ^(encoder|writer)$ ]] || { echo "PARTS: $part is neither encoder nor writer" >&2; exit 1; }
done
methods=(lora sara mo_sara adalora prilora melora bayesian_lora lorta taps)
work=$(mktemp -d)
watcher=""
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null; rm -rf "$work"' EXIT
assets=$PWD/crates/sara-models/assets
# Where PEFT runs in the same round: on the GPU if torch finds one.
peft_device=$(python3 -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
base=$PWD/docs/real-run/peft_baseline.py

run_file() { # model, data, optimizer
    printf 'model = "%s"\noutput = "%s/run"\ntargets = ["query", "value"]\n[data]\ntrain = "%s"\nvalid = "%s"\n[optimizer]\n%s\n' \
        "$1" "$work" "$2" "$2" "$3" >"$work/run.toml"
}

writer_file() { # model, data, optimizer
    run_file "$@"
    sed -i 's/^targets = .*/task = "causal-lm"/' "$work/run.toml"
}

train() { # device, method, and what else is to be other than in the file
    rm -rf "$work/run"
    "$sara" train --config "$work/run.toml" --device "$1" --json "method={$2={}}" "${@:3}" 2>"$work/log" || {
        tail -n 3 "$work/log" >&2
        return 1
    }
}

compare() { # name, device, losses on the CPU; 0 where they are those of the run
    python3 - "$1" "$2" "$3" "$work/run/metrics.jsonl" <<'PY'
import json, sys
name, device, *files = sys.argv[1:]
cpu, gpu = ([r["loss"] for r in map(json.loads, open(f)) if "loss" in r] for f in files)
assert len(cpu) == len(gpu) == 10
error = max(abs(a - b) / a for a, b in zip(cpu, gpu))
# Bayesian-LoRA draws its gates from the device, so its losses are shown and not compared.
compared = name != "bayesian_lora"
print(f"losses  {name:14} {device:5} largest relative difference {error:.1e}{'' if compared else ' (not compared)'}", flush=True)
sys.exit(compared and error >= 1e-3)
PY
}

# 1. The losses of ten steps, and of a model that writes what it writes then.
failed=0
if has encoder; then
    head -n 64 "$assets/train.jsonl" >"$work/few.jsonl"
    run_file "$assets/model" "$work/few.jsonl" $'batch_size = 8\nmax_steps = 10\nlearning_rate = 1e-2'
    for method in "${methods[@]}"; do
        train cpu "$method" >/dev/null
        cp "$work/run/metrics.jsonl" "$work/cpu.jsonl"
        for device in "${devices[@]}"; do
            train "$device" "$method" >/dev/null
            compare "$method" "$device" "$work/cpu.jsonl" || failed=1
        done
    done
fi
if has writer; then
    head -n 64 "$assets/writer/train.jsonl" >"$work/problems.jsonl"
    writer_file "$assets/writer/model" "$work/problems.jsonl" $'batch_size = 8\nmax_steps = 10\nlearning_rate = 1e-2'
    prompt=$(head -n 1 "$assets/writer/valid.jsonl" | python3 -c 'import json, sys; print(json.load(sys.stdin)["prompt"])')
    written() { # device, dtype
        "$sara" generate --model "$assets/writer/model" --adapter "$work/run/adapter" --device "$1" --dtype "$2" --json \
            --temperature 0 --max-new-tokens 24 --prompt "$prompt" 2>/dev/null |
            python3 -c 'import json, sys; print(*json.load(sys.stdin)["tokens"])'
    }
    for dtype in f32 int8 int4; do
        train cpu lora "dtype=$dtype" >/dev/null
        cp "$work/run/metrics.jsonl" "$work/cpu.jsonl"
        tokens=$(written cpu "$dtype")
        for device in "${devices[@]}"; do
            train "$device" lora "dtype=$dtype" >/dev/null
            compare "writer, $dtype" "$device" "$work/cpu.jsonl" || failed=1
            [ "$(written "$device" "$dtype")" = "$tokens" ] || { echo "tokens  $dtype $device differ" >&2; failed=1; }
        done
    done
fi
[ "$failed" = 0 ] || { echo "what was computed differs: no times are taken" >&2; exit 1; }

# 2. Times: RoBERTa-base's shape, 8 x 128 tokens.
if has encoder; then
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
fi

# 3. Times: LLaMA-3.2-1B's shape, random, in bf16 on disk; 1 x 256 tokens in training, and 64 tokens written.
has writer || exit 0
python3 - "$work" "$assets" <<'PY'
import json, random, shutil, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
work, assets = sys.argv[1:]
torch.manual_seed(0)
config = LlamaConfig(vocab_size=128256, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                     head_dim=64, intermediate_size=8192, max_position_embeddings=131072, rope_theta=500000.0, tie_word_embeddings=True,
                     bos_token_id=0, eos_token_id=1)
torch.set_default_dtype(torch.bfloat16)
LlamaForCausalLM(config).save_pretrained(f"{work}/llama")
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{assets}/writer/model/{name}", f"{work}/llama/{name}")
problems = [json.loads(line)["prompt"] for line in open(f"{assets}/writer/train.jsonl")]
rng = random.Random(0)
with open(f"{work}/texts.jsonl", "w") as out:
    for _ in range(16):
        out.write(json.dumps({"text": " ".join(rng.sample(problems, 16))}) + "\n")
PY
peak() { # a command; its output, and the most memory of the GPU meanwhile, where there is nvidia-smi
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 >"$work/memory" &
        watcher=$!
    fi
    "$@"
    [ -z "$watcher" ] || { kill "$watcher"; watcher=""; echo "memory  $(sort -n "$work/memory" | tail -n 1) MiB on the card"; }
}
one_step() { # device, dtype
    writer_file "$work/llama" "$work/texts.jsonl" $'batch_size = 1\nmax_steps = 10'
    sed -i 's/^\[optimizer\]/max_tokens = 256\n[optimizer]/' "$work/run.toml"
    train "$1" lora "dtype=$2" | python3 -c "
import json, sys
r = json.load(sys.stdin)
print(f\"train   {'$2':10} {'$1':5} {r['step_ms']:8.1f} ms  {r['tokens_per_second']:8.0f} tokens/s  {r['peak_memory_bytes'] / 1e9:.2f} GB in the process\", flush=True)"
}
writes() { # device, dtype
    "$sara" generate --model "$work/llama" --device "$1" --dtype "$2" --json --temperature 0 --max-new-tokens 65 \
        --prompt "anna has two pears ." 2>/dev/null | python3 -c "
import json, sys
r = json.load(sys.stdin)
print(f\"write   {'$2':10} {'$1':5} {r['tokens_per_second']:8.1f} tokens/s  {r['prefill_ms']:.0f} ms before the first\", flush=True)"
}
for round in 1 2; do
    for device in "${devices[@]}"; do
        for dtype in checkpoint int8 int4; do
            peak one_step "$device" "$dtype"
            peak writes "$device" "$dtype"
        done
    done
    python3 - "$work/llama" "$peft_device" <<'PY'
import sys, time, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
path, device = sys.argv[1:]
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device)
ids = torch.randint(3, 100, (1, 6), device=device)
options = dict(do_sample=False, pad_token_id=0, eos_token_id=None)
times = {}
for n in (65, 1, 65, 1):
    wait(); start = time.time()
    model.generate(ids, max_new_tokens=n, min_new_tokens=n, **options)
    wait(); times[n] = time.time() - start
print(f"write   transformers, bf16 {device} {64 / (times[65] - times[1]):8.1f} tokens/s", flush=True)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(3, 100, (1, 256), device=device)
steps = []
for _ in range(10 if device == "cuda" else 3):
    wait(); start = time.time()
    model(input_ids=ids, labels=ids).loss.backward(); optimizer.step(); optimizer.zero_grad()
    wait(); steps.append(time.time() - start)
memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else float("nan")
print(f"train   PEFT, bf16 {device} {sorted(steps)[len(steps) // 2] * 1e3:8.1f} ms  {memory:.2f} GB on the card", flush=True)
PY
done
