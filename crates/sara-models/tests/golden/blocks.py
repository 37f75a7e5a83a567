"""A small random LLaMA, its logits, and those with its matrices in 8 and in 4 bits: blocks of 32 values with a scale in f16."""

import decoders
import fixtures
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BLOCK = 32
TABLES = ("embed_tokens", "lm_head")  # in 8 bits beside layers of 4


def blocks(matrix, bits):
    """The values that the nearest codes stand for, ties away from zero."""
    values = matrix.reshape(-1, BLOCK)
    largest = values[np.arange(len(values)), np.abs(values).argmax(1)][:, None]
    exact = np.abs(largest) / np.float32(127) if bits == 8 else largest / np.float32(-8)
    scale = exact.astype(np.float16).astype(np.float32)
    steps = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    codes = np.clip(np.copysign(np.floor(np.abs(steps) + np.float32(0.5)), steps), low, high)
    return (codes * scale).astype(np.float32).reshape(matrix.shape)


def rounded(folder, bits):
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                in_table = any(table in name for table in TABLES)
                parameter.copy_(torch.from_numpy(blocks(parameter.numpy(), 8 if in_table else bits)))
    return model


def generate(out):
    folder = fixtures.fresh(out / "llama-blocks")
    shape = decoders.SHAPE | dict(hidden_size=64, intermediate_size=96, num_key_value_heads=2, tie_word_embeddings=False)
    model = LlamaForCausalLM(LlamaConfig(**shape, **decoders.SPECIAL))
    decoders.randomise(model, 901)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.from_numpy(np.random.default_rng(902).integers(decoders.EOS + 1, decoders.VOCABULARY, (2, 24)))
    tensors = {"input_ids": ids, "logits": decoders.forward(model, ids)}
    for bits in (8, 4):
        tensors[f"logits_int{bits}"] = decoders.forward(rounded(folder, bits), ids)
    fixtures.save(tensors, folder / "golden.safetensors")


if __name__ == "__main__":
    fixtures.main(generate)
