"""Directories of tokenizer files that contradict each other or lack one, with the ids and types that transformers makes of them.

Not named `tokenizers.py`: that would hide the library from every generator of this folder."""

import json

import fixtures
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT_WORDS = [*BERT_SPECIAL, *"hello Hello world World cafe café Café the a b c h ##ello ##s ##é é 日 本 日本 ! , [ ] MASK <s> </s> <mask> odd".split()]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "w o", "wo r", "wor l", "worl d", "Ġ world", "Ã ©"]
ROBERTA_PIECES = [*ROBERTA_SPECIAL, *"acdefhlorwHW!,", "Ġ", "Ã", "©", *(merge.replace(" ", "") for merge in MERGES), "[CLS]", "[SEP]"]
WHOLE = {"▁": -3, "▁hello": -2, "▁world": -2.5, "hello": -4, "▁Hello": -4.5}
UNIGRAM = dict.fromkeys(ROBERTA_SPECIAL[:4], 0.0) | WHOLE | dict.fromkeys("helord", -6) | {"<mask>": 0}

SINGLE = ["Hello CAFÉ, café 日本!", "hello world", " world  hello", "hellos WORLD odd [mask] newers", "[MASK] a <mask> b", "x</s>new NEW newer [CLS]", ""]
PAIRS = [("hello world", "Hello"), ("the café", " world a b")]
CUT = [
    ("a b c hello world", None, 5),
    ("a b c hello world", None, 4),
    ("a b c hello world", "hello world a b", 9),
    ("a b c hello world", "hello world a b", 10),
    ("the", "a b c hello world", 8),
    ("a b c hello world", "the", 8),
]
TYPES = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
NO_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}


def template(cls, sep, middle, second_type, vocabulary):
    """CLS A SEP, or a pair with `middle` between the texts and everything after it of type `second_type`."""
    pair = f"{cls}:0 $A:0 {middle} $B:{second_type} {sep}:{second_type}"
    ids = [(token, vocabulary.index(token)) for token in (cls, sep)]
    return processors.TemplateProcessing(single=f"{cls}:0 $A:0 {sep}:0", pair=pair, special_tokens=ids)


def file(tokenizer, special, **changes):
    """`tokenizer.json` as an object; `changes` replace its members."""
    tokenizer.add_special_tokens(special)
    return json.loads(tokenizer.to_str()) | changes


def word_piece(lowercase, special=BERT_SPECIAL, words=BERT_WORDS, **changes):
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=special[BERT_SPECIAL.index("[UNK]")]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = template("[CLS]", "[SEP]", "[SEP]:0", 1, words)
    return file(tokenizer, special, **changes)


def byte_level(prefix, second_type=None, unk_token=None, normalizer=None, **changes):
    merges = [tuple(merge.split()) for merge in MERGES]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(ROBERTA_PIECES)}, merges, unk_token=unk_token))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    if second_type is not None:
        tokenizer.post_processor = template("<s>", "</s>", f"</s>:0 </s>:{second_type}", second_type, ROBERTA_PIECES)
    return file(tokenizer, ROBERTA_SPECIAL, **changes)


def unigram():
    tokenizer = Tokenizer(models.Unigram(list(UNIGRAM.items()), 3, False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.post_processor = template("<s>", "</s>", "</s>:0 </s>:1", 1, list(UNIGRAM))
    return file(tokenizer, ROBERTA_SPECIAL)


def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False} | flags


def decoder(special, more):
    """`added_tokens_decoder`: the special tokens and others, under ids of which only the order counts."""
    return {str(i): token(content, special=True) for i, content in enumerate(special)} | more


def bert_cases():
    cased, lower = word_piece(False), word_piece(True)
    yield "bert-cased", {"tokenizer.json": lower, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}
    settings = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}
    yield "bert-accents", {"tokenizer.json": cased, "tokenizer_config.json": settings}
    # The class for `bert` lowercases unless told otherwise, whatever the file's normalizer does.
    yield "bert-no-config", {"tokenizer.json": cased}
    # Named in config.json: a generic class obeys the file, and no settings; without `model_input_names` it gives no types.
    settings = {"do_lower_case": True, "cls_token": "<s>", "unk_token": "odd", "add_bos_token": True}
    yield "bert-generic", {"config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizer.json": cased, "tokenizer_config.json": settings}
    settings = {"tokenizer_class": "TokenizersBackend", "cls_token": "NEW", "unk_token": "newer", **TYPES}
    yield "bert-generic-bare", {"tokenizer.json": word_piece(True, post_processor=None), "tokenizer_config.json": settings}
    roberta_style = {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim_offsets": True, "add_prefix_space": False}
    settings = {"tokenizer_class": "ElectraTokenizerFast", "truncation_side": "left", "padding_side": "left", "model_max_length": 4, **TYPES}
    yield "bert-left", {"tokenizer.json": word_piece(False, post_processor=roberta_style), "tokenizer_config.json": settings}
    cut = {"direction": "Left", "max_length": 3, "strategy": "OnlySecond", "stride": 1}
    pad = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    settings = {"tokenizer_class": "DistilBertTokenizer"}
    yield "bert-file-left", {"tokenizer.json": word_piece(False, truncation=cut, padding=pad), "tokenizer_config.json": settings}
    yield "bert-vocabulary", {"vocab.txt": "\n".join([*BERT_WORDS, "new  ", "a"]), "added_tokens.json": {"NEWER": 90}}
    yield "bert-vocabulary-config", {
        "vocab.txt": "\n".join(BERT_WORDS) + "\n",
        "tokenizer_config.json": {"do_lower_case": False, "sep_token": "odd"},
        "special_tokens_map.json": {"cls_token": "<s>", "sep_token": token("</s>"), "mask_token": token("<mask>", lstrip=True)},
        "added_tokens.json": {"new": 90, "NEW": 80, "Hello": 85},
    }
    mask = {"__type": "AddedToken", **token("newer", single_word=True)}
    yield "bert-renamed", {
        "tokenizer.json": lower,
        "tokenizer_config.json": {"cls_token": "odd", "sep_token": "</s>", "unk_token": "the", "mask_token": mask},
        "special_tokens_map.json": {"cls_token": "<s>"},
    }
    extended = word_piece(True)
    extended["added_tokens"] += [{"id": 34, **token("newer")}, {"id": 35, **token("new")}]
    yield "bert-added-file", {"tokenizer.json": extended, "tokenizer_config.json": {"additional_special_tokens": ["NEW", "odd"], "own_token": "x"}}
    added = decoder(BERT_SPECIAL, {"70": token("NEW", normalized=True), "60": token("new", single_word=True, special=True)})
    settings = {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": added, "extra_special_tokens": ["b"]}
    yield "bert-added-config", {"tokenizer.json": extended, "tokenizer_config.json": settings, "special_tokens_map.json": {"cls_token": "<s>"}}
    yield "bert-split", {"tokenizer.json": lower, "tokenizer_config.json": {"split_special_tokens": True}}
    yield "bert-unigram", {"tokenizer.json": unigram(), "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer", "cls_token": "▁world"}}


def roberta_cases():
    vocabulary = {"vocab.json": {piece: i for i, piece in enumerate(ROBERTA_PIECES)}, "merges.txt": "\n".join(["#version: 0.2", *MERGES]) + "\n"}
    settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, "trim_offsets": False}
    yield "roberta-prefix", {"tokenizer.json": byte_level(False), "tokenizer_config.json": settings}
    # What the class does not take over: the prefix space, the normalizer and the unknown token of the file.
    odd = byte_level(True, unk_token="<unk>", normalizer=normalizers.Lowercase())
    yield "roberta-no-prefix", {"tokenizer.json": odd, "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizerFast"}}
    yield "roberta-generic", {
        "tokenizer.json": byte_level(True, second_type=1, unk_token="<unk>", normalizer=normalizers.Lowercase()),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, "truncation_side": "left", **TYPES},
    }
    yield "roberta-template", {"tokenizer.json": byte_level(False, second_type=1), "tokenizer_config.json": {"truncation_side": "left", **TYPES}}
    yield "roberta-vocabulary", vocabulary
    yield "roberta-vocabulary-config", {
        **vocabulary,
        "tokenizer_config.json": {"add_prefix_space": True},
        "special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True), "additional_special_tokens": ["odd"]},
        "added_tokens.json": {"new": 70, "NEW": 60},
    }
    settings = {"cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "a", "eos_token": "!"}
    yield "roberta-renamed", {"tokenizer.json": byte_level(False, post_processor=None), "tokenizer_config.json": settings}
    added = decoder(ROBERTA_SPECIAL, {"4": token("<mask>", lstrip=True, special=True), "70": token("new"), "60": token("odd", rstrip=True)})
    yield "roberta-added-config", {"tokenizer.json": byte_level(False), "tokenizer_config.json": {"added_tokens_decoder": added, **NO_TYPES}}
    yield "roberta-word-piece", {"tokenizer.json": word_piece(True), "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}
    yield "roberta-error-generic", vocabulary | {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
    yield "roberta-error-merges", {"vocab.json": vocabulary["vocab.json"]}
    yield "roberta-error-object", {"tokenizer.json": byte_level(False), "special_tokens_map.json": {"additional_special_tokens": [token("new")]}}


def write(folder, family, files):
    config = {"model_type": family, "vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config |= {"max_position_embeddings": 64, "type_vocab_size": 2}
    fixtures.fresh(folder)
    for name, content in {**files, "config.json": config | files.get("config.json", {})}.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def encode(folder):
    """The rows of one directory; the object that says so where transformers cannot load it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (TypeError, ValueError):
        return {"error": True}
    rows = []
    for text, pair, limit in [(text, None, None) for text in SINGLE] + [(*texts, None) for texts in PAIRS] + CUT:
        encoded = tokenizer(text, pair, truncation=limit is not None, max_length=limit)
        ids = encoded["input_ids"]
        rows.append({"text": text, "text_pair": pair, "max_tokens": limit, "ids": ids, "types": encoded.get("token_type_ids", [0] * len(ids))})
    return rows


def generate(out):
    transformers.utils.logging.set_verbosity_error()
    folder = fixtures.fresh(out / "tokenizers")
    cases = {}
    for family, made in (("bert", bert_cases()), ("roberta", roberta_cases())):
        for name, files in made:
            write(folder / name, family, files)
            cases[name] = encode(folder / name)
    one = lambda rows: json.dumps(rows) if isinstance(rows, dict) else "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
    text = ",\n".join(f"{json.dumps(name)}: {one(rows)}" for name, rows in cases.items())
    (folder / "cases.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    fixtures.main(generate)
