"""Small random decoders of four families as Hugging Face writes them, with logits, greedy continuations and a LoRA run of PEFT."""

import json

import encoders
import fixtures
import numpy as np
import torch
import training
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 120
BOS, EOS = 1, 2
NEW_TOKENS = 64
MARGIN = 5e-3  # between the two best logits of every token chosen: no rounding turns the choice
# eps 1e-2 is not what released checkpoints have: it makes an eps that is ignored visible.
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=128, rms_norm_eps=1e-2,
)  # fmt: skip
SPECIAL = dict(bos_token_id=BOS, eos_token_id=EOS)
ORIGINAL = 32  # length before the scaling of the positions
SHORT, LONG = dict(width=24, prompts=(3, 9, 5)), dict(width=80, prompts=(3, 9, 40))
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
CHATS = [
    ([{"role": "user", "content": "The small garden?"}], True),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "our evening train"}, {"role": "assistant", "content": "was slow."}], False),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "  c\n"}], True),
]
PROMPTS = ["The small garden was", "an old machine", "our evening train seemed fairly", "this recipe", "Café?", "a quiet library became"]
TEXT_MAX_NEW = 40


def randomise(model, seed):
    """Like that of `fixtures`, for the names here: matrices of std 0.3, biases of 0.2, norm weights 0.2 around 1."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            gain, bias = name.endswith("norm.weight"), name.endswith(".bias")
            parameter.copy_(fixtures.normal(rng, *parameter.shape, std=0.2 if gain or bias else 0.3, mean=1.0 if gain else 0.0))


def version_4(config, name="rope_type", **changes):
    """A `config.json` in the way of transformers 4: the base beside the scaling, no layer types, no head size that can be derived."""
    rope = dict(config["rope_parameters"])
    left_out = {"rope_parameters", "layer_types", "dtype"}
    if config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        left_out.add("head_dim")
    older = {key: value for key, value in config.items() if key not in left_out}
    older |= {"rope_theta": rope.pop("rope_theta"), "torch_dtype": config["dtype"], "transformers_version": "4.46.0"}
    kind = rope.pop("rope_type")
    return older | {"rope_scaling": None if kind == "default" else {name: kind, **rope}} | changes


def understood(config_class, written):
    """What transformers reads in a `config.json`, without the version and the second name of the scaling's type."""
    read = config_class.from_dict(written).to_dict()
    del read["transformers_version"]
    read["rope_parameters"].pop("type", None)
    return read


def write_config(folder, older):
    """Rewrites `config.json` in the older way where that is asked for, once transformers has understood the same by all ways."""
    path = folder / "config.json"
    written = json.loads(path.read_text())
    config_class = transformers.CONFIG_MAPPING[written["model_type"]]
    for way in (version_4(written, **older or {}), version_4(written, "type"), version_4(written, "rope_type")):
        assert understood(config_class, way) == understood(config_class, written), folder.name
    if older is not None:
        path.write_text(json.dumps(version_4(written, **older), indent=2, sort_keys=True) + "\n")


def forget(model):
    """Frequencies as in a model just loaded: those of dynamic scaling depend on every text before."""
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model


def forward(model, input_ids):
    with torch.no_grad():
        return forget(model)(input_ids).logits


def continuations(model, prompts, use_cache):
    """Greedy ids `[rows, new]` of `generate` and the smallest margin; prompts of several lengths are padded on the left. No token ends the text."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.stack([torch.cat([prompt.new_zeros(width - len(prompt)), prompt]) for prompt in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(prompt) for prompt in prompts]).long()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, bos_token_id=BOS)
    result = forget(model).generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, use_cache=use_cache,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return result.sequences[:, width:], margin(torch.stack(result.logits))


def margin(logits):
    best = logits.topk(2).values
    return (best[..., 0] - best[..., 1]).min().item()


def by_hand(model, prompt):
    """Greedy ids by a full forward pass for every token."""
    ids = prompt
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, forward(model, ids[None])[0, -1].argmax()[None]])
    return ids[len(prompt) :]


def cycle(ids):
    """Length of the cycle that the last ids have run through at least twice, 0 if there is none."""
    return next((n for n in range(1, 17) if torch.equal(ids[-2 * n : -n], ids[-n:])), 0)


def decode(model, prompts):
    """Prompts and what the three ways to decode make of them, and the smallest margin. Without a cache every token is a full forward pass."""
    single, single_margins = zip(*(continuations(model, [prompt], True) for prompt in prompts))
    uncached, uncached_margins = zip(*(continuations(model, [prompt], False) for prompt in prompts))
    batched, batched_margin = continuations(model, prompts, True)
    tensors, smallest = {}, min(*single_margins, *uncached_margins, batched_margin)
    for i, prompt in enumerate(prompts):
        ways = {"greedy": single[i][0], "greedy_uncached": uncached[i][0], "greedy_batched": batched[i]}
        assert torch.equal(ways["greedy_uncached"], by_hand(model, prompt))
        tensors |= {f"prompt.{i}": prompt} | {f"{name}.{i}": ids for name, ids in ways.items()}
    return tensors, smallest


def disagreements(tensors):
    """The continuations that differ from the cached ones of a prompt alone, each with the first token that does."""
    pairs = [(f"greedy.{i}", f"greedy_{way}.{i}") for i in range(3) for way in ("uncached", "batched")]
    unequal = {other: (tensors[one] != tensors[other]).nonzero().flatten().tolist() for one, other in pairs}
    return {name: places[0] for name, places in unequal.items() if places}


def record(folder, model_class, seed, width, prompts):
    """Loads the checkpoint as a user would and writes `golden.safetensors`."""
    model, report = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    model.eval()
    rng = np.random.default_rng(seed)
    random_ids = lambda *shape: torch.from_numpy(rng.integers(EOS + 1, model.config.vocab_size, shape))
    tensors = {"input_ids": random_ids(2, width)}
    tensors["logits"] = forward(model, tensors["input_ids"])
    rotary = model.model.rotary_emb
    if rotary.rope_type != "default":
        tensors |= {"inv_freq": rotary.inv_freq, "attention_factor": torch.tensor(float(rotary.attention_scaling))}
    decoded, smallest = decode(model, [random_ids(length) for length in prompts])
    unequal = disagreements(decoded)
    cycles = [cycle(decoded[f"greedy.{i}"]) for i in range(3)]
    print(f"{folder.name}: margin {smallest:.1e}, cycles {cycles}, {f'unequal from {unequal}' if unequal else 'all ways of decoding agree'}")
    assert smallest > MARGIN and not any(cycles), folder.name
    # Cached keys keep the frequencies of their own time, which dynamic scaling changes with every token beyond the original length.
    assert bool(unequal) == (rotary.rope_type == "dynamic"), folder.name
    fixtures.save(tensors | decoded, folder / "golden.safetensors")


def make(folder, model_class, config, seed, older=None, dtype=torch.float32, texts=SHORT, **saving):
    """`older`: what `version_4` takes, for a configuration in that way."""
    fixtures.fresh(folder)
    model = model_class(config)
    randomise(model, seed)
    model.to(dtype).save_pretrained(folder, **saving)
    (folder / "generation_config.json").unlink()
    write_config(folder, older)
    record(folder, model_class, **dict(seed=seed + 1) | texts)


def byte_level_bpe():
    """Beginning of text added like LLaMA's, no padding and no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>", "<|eot|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(encoders.SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 0)])
    return tokenizer


def save_tokenizer(tokenizer, folder):
    """The files of transformers 4, which hubs are full of: version 5 writes neither the map of special tokens nor this class name."""
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(bos_token="<s>", eos_token="</s>")
    entry = lambda name: dict(content=name, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    config = dict(
        added_tokens_decoder={str(i): entry(name) for i, name in enumerate(["<s>", "</s>", "<|eot|>"])}, **names, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"], model_max_length=128,
        tokenizer_class="PreTrainedTokenizerFast",
    )  # fmt: skip
    for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", names)):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_rows(path, head, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{{{head}"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def text(folder, seed):
    """A directory as on the hub, with what its tokenizer, its template and its greedy decoding give."""
    tokenizer = byte_level_bpe()
    ids = dict(vocab_size=tokenizer.get_vocab_size(), bos_token_id=0, eos_token_id=1)
    config = llama(**ids, num_key_value_heads=2, tie_word_embeddings=True)
    make(folder, LlamaForCausalLM, config, seed, texts=SHORT | dict(seed=30))
    transformers.GenerationConfig(bos_token_id=0, eos_token_id=[1, 2]).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)

    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for line in dict.fromkeys(line for line, _ in encoders.TEXTS):
        ids = loaded(line)["input_ids"]
        assert ids == tokenizer.encode(line).ids and len(ids) <= 128
        rows.append({"text": line, "input_ids": ids, "token_type_ids": [0] * len(ids), "attention_mask": [1] * len(ids)})
    write_rows(folder / "texts.json", '"max_length": 128, ', rows)

    rows = []
    for messages, prompt in CHATS:
        rendered = loaded.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        ids = loaded.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
        assert ids == tokenizer.encode(rendered, add_special_tokens=False).ids
        rows.append({"messages": messages, "add_generation_prompt": prompt, "text": rendered, "input_ids": ids})
    write_rows(folder / "chats.json", "", rows)

    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    rows, smallest = [], []
    for prompt in PROMPTS:
        inputs = loaded(prompt, return_tensors="pt")
        result = model.generate(
            **inputs, do_sample=False, max_new_tokens=TEXT_MAX_NEW, pad_token_id=0, output_logits=True, return_dict_in_generate=True
        )
        ids = result.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        smallest.append(margin(torch.stack(result.logits)))
        stop = loaded.convert_ids_to_tokens(ids[-1]) if ids[-1] in (1, 2) else None
        row = {"prompt": prompt, "input_ids": inputs["input_ids"][0].tolist(), "output_ids": ids, "stop": stop}
        rows.append(row | {"text": loaded.decode(ids, skip_special_tokens=True)})
    write_rows(folder / "generated.json", f'"max_new_tokens": {TEXT_MAX_NEW}, ', rows)
    stops = [row["stop"] for row in rows]
    print(f"{folder.name}: margin {min(smallest):.1e}, stopped by {stops}")
    assert min(smallest) > MARGIN and {"</s>", "<|eot|>", None} == set(stops)


def micro_batch(rng, width):
    """Two rows padded on the right; prompt and padding carry no label. Some rows have no prompt and so a label on their first token."""
    ids, mask, labels = torch.zeros(3, 2, width, dtype=torch.int64)
    labels.fill_(-100)
    for row in range(2):
        length = int(rng.integers(4, width + 1))
        prompt = int(rng.integers(0, length - 2))
        ids[row, :length] = torch.from_numpy(rng.integers(EOS + 1, VOCABULARY, length))
        mask[row, :length] = 1
        labels[row, prompt:length] = ids[row, prompt:length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def lora(out):
    """Twenty steps of two micro-batches; the loss of a step is the mean over all its trained tokens."""
    base = LlamaForCausalLM.from_pretrained(out / "llama-gqa", attn_implementation="eager", dtype=torch.float32)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, config).train()
    parameters = fixtures.trained(model)
    rng = np.random.default_rng(71)
    with torch.no_grad():
        for name, value in sorted(parameters.items()):
            value.copy_(fixtures.normal(rng, *value.shape, std=0.02 if "lora_B" in name else 0.09))
    made = [micro_batch(rng, 12) for _ in range(40)]

    folder = fixtures.fresh(out / "causal-lora")
    fixtures.save_adapter(model, folder / "initial", "llama-gqa")
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, **training.ADAMW)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, 20)
    trace, values = [], {}
    for step in range(20):
        pair = made[2 * step : 2 * step + 2]
        # The label of a row's first token is predicted by nothing and does not count.
        counts = torch.stack([(one["labels"][:, 1:] != -100).sum() for one in pair])
        losses = []
        for one in pair:
            result = model(**one, num_items_in_batch=counts.sum())
            total = cross_entropy(result.logits[:, :-1].flatten(0, 1), one["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum")
            torch.testing.assert_close(result.loss, total / counts.sum())
            result.loss.backward()
            losses.append(result.loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), training.CLIP)
        if step == 0:
            values |= training.named("gradient1", {name: value.grad for name, value in parameters.items()})
        rate = torch.tensor(schedule.get_last_lr()[0], dtype=torch.float64)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        trace.append({"losses": torch.stack(losses).sum(), "tokens": counts, "gradient_norms": norm, "learning_rates": rate})
        if step in (0, 19):
            values |= training.named(f"step{step + 1}", parameters)
    values |= {name: torch.stack([row[name] for row in trace]) for name in trace[0]}
    fixtures.save(values | training.stacked(made, 20, 2), folder / "golden.safetensors")
    fixtures.save_adapter(model, folder / "final", "llama-gqa")
    norms = values["gradient_norms"]
    clipped = (norms > training.CLIP).sum()
    print(f"causal-lora: {clipped} of 20 steps clipped, norms {norms.min():.3f} to {norms.max():.3f}")
    assert 10 < clipped < 20


def llama(**options):
    return LlamaConfig(**SHAPE | SPECIAL | options)


def rope(kind="default", theta=10000.0, **options):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **options))


def cases():
    """Name, class, configuration, seed, and the options of `make`."""
    original = dict(original_max_position_embeddings=ORIGINAL)
    grouped = dict(num_key_value_heads=2)
    scaled = dict(max_position_embeddings=ORIGINAL) | grouped
    qwen = SHAPE | SPECIAL | grouped | rope(theta=1000000.0)
    window = dict(use_sliding_window=True, sliding_window=6, max_window_layers=1, num_hidden_layers=3)
    llama3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **original)
    return [
        ("llama-mha", LlamaForCausalLM, llama(), 104, dict(max_shard_size="60KB")),
        (
            "llama-gqa", LlamaForCausalLM, llama(**grouped, head_dim=12, tie_word_embeddings=True, **rope(theta=500000.0)), 204,
            dict(dtype=torch.bfloat16),
        ),
        ("llama-linear", LlamaForCausalLM, llama(**scaled, **rope("linear", factor=4.0)), 310, dict(older={"name": "type"}, texts=LONG)),
        ("llama-dynamic", LlamaForCausalLM, llama(**scaled, **rope("dynamic", factor=4.0)), 444, dict(texts=LONG)),
        (
            "llama-llama3", LlamaForCausalLM, llama(**grouped, head_dim=20, tie_word_embeddings=True, max_position_embeddings=256, **llama3), 502,
            dict(older={}, texts=LONG),
        ),
        ("llama-yarn", LlamaForCausalLM, llama(**grouped, head_dim=16, **rope("yarn", factor=4.0, **original)), 618, dict(texts=LONG)),
        ("llama-bias", LlamaForCausalLM, llama(attention_bias=True, mlp_bias=True), 744, {}),
        ("mistral-window", MistralForCausalLM, MistralConfig(**SHAPE | SPECIAL | grouped, sliding_window=6), 800, dict(older={})),
        # The window is not used here and must not be.
        ("qwen2", Qwen2ForCausalLM, Qwen2Config(**qwen, tie_word_embeddings=True), 914, dict(older={"sliding_window": 6})),
        ("qwen2-window", Qwen2ForCausalLM, Qwen2Config(**qwen | window), 1022, dict(older={})),
        ("qwen3", Qwen3ForCausalLM, Qwen3Config(**qwen, head_dim=16), 1142, {}),
    ]  # fmt: skip


def generate(out):
    for name, model_class, config, seed, options in cases():
        make(out / name, model_class, config, seed, **options)
    text(out / "llama-text", 1406)
    lora(out)


if __name__ == "__main__":
    fixtures.main(generate)
