"""Small random RoBERTa and BERT checkpoints as Hugging Face writes them, with the outputs of transformers."""

import json

import fixtures
import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LABELS = ["negative", "neutral", "positive"]
MAX_LENGTH = 16
SUBJECTS = ["the small garden", "an old machine", "our evening train", "this recipe", "the river path", "a quiet library"]
VERBS = ["was", "seemed", "became", "looked", "stayed"]
QUALITIES = ["wonderful", "dreadful", "fairly plain", "surprisingly good", "slow and noisy", "better than before"]
SENTENCES = [f"{s} {v} {q}." for s in SUBJECTS for v in VERBS for q in QUALITIES]
TEXTS = [
    ("The small garden was wonderful.", None),
    ("  two  spaces, CAPITALS and don't; 42 kg?", None),
    ("Café déjà vu — 日本 🙂", None),
    ("", None),
    ("this recipe was slow and noisy. the river path stayed better than before, our evening train became fairly plain.", None),
    ("a quiet library", "an old machine seemed dreadful."),
    ("short", "the river path looked surprisingly good, and the small garden stayed fairly plain, but our evening train did not."),
    ("our evening train looked better than before and this recipe became dreadful", "the river path looked wonderful, an old machine was plain"),
]
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=40)


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def word_piece():
    """A vocabulary written down rather than trained: whole words, endings, and letters to fall back on."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = sorted({word for line in SENTENCES for word in line.rstrip(".").split()})
    whole, halves = words[::2], [word[: len(word) // 2] for word in words[1::2]]
    rests = ["##" + word[len(word) // 2 :] for word in words[1::2]]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *".,;?'", *whole, *halves, *rests]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def save_tokenizer(tokenizer, kind, folder):
    roberta = dict(bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")
    bert = dict(cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")
    names = ["input_ids", "attention_mask"] if kind == "roberta" else ["input_ids", "token_type_ids", "attention_mask"]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, model_max_length=38, **(roberta if kind == "roberta" else bert)
    )
    fast.save_pretrained(folder)
    return fast


def roberta_config(tokenizer, **options):
    # eps 1e-2 is not what released checkpoints have: it makes an eps that is ignored visible.
    return transformers.RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), type_vocab_size=1, layer_norm_eps=1e-2, pad_token_id=1, bos_token_id=0, eos_token_id=2, **SHAPE, **options
    )


def bert_config(tokenizer, **options):
    return transformers.BertConfig(vocab_size=tokenizer.get_vocab_size(), type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0, **SHAPE, **options)


def rewrite(folder, change):
    """Changes the tensors of a saved checkpoint by hand, as files of older library versions have them."""
    path = folder / "model.safetensors"
    fixtures.save(change(load_file(path)), path)


def record(folder, model_class, tokenizer, seed):
    """Loads the checkpoint as a user would and writes `golden.safetensors` and `texts.json`."""
    model, report = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"], report
    inputs = fixtures.batch(np.random.default_rng(seed), model.config, [12, 5, 9, 2])
    # The vocabulary-sized logits of a masked language model are nothing that is compared.
    of_interest = {name: value for name, value in fixtures.outputs(model, inputs).items() if value.shape[-1] != model.config.vocab_size}
    fixtures.save({**inputs, **of_interest}, folder / "golden.safetensors")

    rows = []
    for text, pair in TEXTS:
        encoded = tokenizer(text, pair, max_length=MAX_LENGTH, truncation="longest_first", padding="max_length", return_tensors="pt")
        encoded.setdefault("token_type_ids", torch.zeros_like(encoded["input_ids"]))
        row = {"text": text} | ({} if pair is None else {"text_pair": pair})
        row |= {name: encoded[name][0].tolist() for name in ("input_ids", "token_type_ids", "attention_mask")}
        if "logits" in of_interest:
            row["logits"] = fixtures.outputs(model, dict(encoded))["logits"][0].tolist()
        rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "texts.json").write_text(f'{{"max_length": {MAX_LENGTH}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def make(folder, kind, model_class, config, seed, change=None, dtype=torch.float32, **saving):
    fixtures.fresh(folder)
    model = model_class(config)
    fixtures.randomise(model, seed)
    model.to(dtype).save_pretrained(folder, **saving)
    if change:
        rewrite(folder, change)
    tokenizer = byte_level_bpe() if kind == "roberta" else word_piece()
    if folder.name == "bert-reg":
        # As sentence-transformers checkpoints have it; a reader must not obey.
        tokenizer.enable_truncation(max_length=6)
        tokenizer.enable_padding(length=6, pad_id=0, pad_token="[PAD]")
    record(folder, model_class, save_tokenizer(tokenizer, kind, folder), seed + 1)


def old_norm_names(tensors):
    swap = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return {swap(name): value for name, value in tensors.items()}


def with_position_ids(tensors):
    return tensors | {"roberta.embeddings.position_ids": torch.arange(40).unsqueeze(0)}


def generate(out):
    names = dict(id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})
    roberta, bert = byte_level_bpe(), word_piece()
    make(out / "roberta-cls3", "roberta", transformers.RobertaForSequenceClassification, roberta_config(roberta, **names), 10)
    make(
        out / "roberta-reg", "roberta", transformers.RobertaForSequenceClassification, roberta_config(roberta, num_labels=1), 20,
        dtype=torch.bfloat16, max_shard_size="30KB",
    )  # fmt: skip
    make(out / "roberta-mlm", "roberta", transformers.RobertaForMaskedLM, roberta_config(roberta), 30, with_position_ids)
    make(out / "bert-cls3", "bert", transformers.BertForSequenceClassification, bert_config(bert, **names), 40)
    make(out / "bert-reg", "bert", transformers.BertForSequenceClassification, bert_config(bert, num_labels=1), 50, old_norm_names)
    make(out / "bert-bare", "bert", transformers.BertModel, bert_config(bert), 60)


if __name__ == "__main__":
    fixtures.main(generate)
