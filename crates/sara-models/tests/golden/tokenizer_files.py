"""Directories of tokenizer files that contradict each other or lack one, with the ids and types that transformers makes of them.

Not named `tokenizers.py`: that would hide the library from every generator of this folder."""

import json

import fixtures
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
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
ENCODED = [(text, None, None) for text in SINGLE] + [(*texts, None) for texts in PAIRS] + CUT

# Bytes of a line break, of é and of 😀 only: of 日 there is nothing, which is the unknown token or no token at all.
SENTENCE_SPECIAL = ["<unk>", "<s>", "</s>"]
SENTENCE_MERGES = ["h e", "l l", "he ll", "hell o", "▁ hello", "w o", "wo r", "wor l", "worl d", "▁ world", "▁ ▁", "▁▁ ▁▁"]
SENTENCE_BYTES = [f"<0x{byte:02X}>" for byte in "\né😀".encode()]
SENTENCE_PIECES = [*SENTENCE_SPECIAL, *SENTENCE_BYTES, *"▁acdefhlorw12,!", *(merge.replace(" ", "") for merge in SENTENCE_MERGES)]
# Merges across what some pre-tokenizers split: digits, contractions, a sign before letters or a line break. `odd` is a piece to
# which no merge leads.
BYTE_SPECIAL = ["<|begin|>", "<|end|>", "<|endoftext|>"]
BYTE_MERGES = [*MERGES, "1 2", "12 3", "' s", "S h", "' S", "! hello", "! Ċ", "Ġ Ġ", "Ċ Ċ"]
BYTE_PIECES = [*"acdefhlorstwHS123'!,ĠĊÃ©ÌģðŁĺĢ", "odd", *(merge.replace(" ", "") for merge in BYTE_MERGES), *BYTE_SPECIAL]
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

DECODED = [
    ("hello world", None, None),
    (" hello  world\n\n", None, None),
    ("  ", None, None),
    ("▁hello", None, None),
    ("Hello cafe\u0301, café 😀日!", None, None),
    ("1234's odd'S!\n !hello 12'Shd", None, None),
    ("<s> hello</s> world new  NEW<unk>hello <pad> hello", None, None),
    ("<|begin|>hello <|end|> new <|endoftext|>\n world", None, None),
    ("</s></s><|end|><|end|>", None, None),
    ("", None, None),
    ("hello", " world", None),
    ("", "hello!\n", None),
    ("😀😀 hello", None, 5),
    ("hello world a", "odd hello", 7),
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


def around(pieces, bos=None, eos=None):
    """A frame of these tokens around each text, of its type."""
    one = lambda text, kind: " ".join(f"{piece}:{kind}" for piece in (bos, text, eos) if piece)
    ids = [(piece, pieces.index(piece)) for piece in (bos, eos) if piece]
    return processors.TemplateProcessing(single=one("$A", 0), pair=f"{one('$A', 0)} {one('$B', 1)}", special_tokens=ids)


def sentence_piece(normalizes, eos=None, **changes):
    """As LLaMA 1 and 2 have it: the first space comes from the normalizer, in later files from the pre-tokenizer."""
    merges = [tuple(merge.split()) for merge in SENTENCE_MERGES]
    model = models.BPE({piece: i for i, piece in enumerate(SENTENCE_PIECES)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if normalizes:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = around(SENTENCE_PIECES, "<s>", eos)
    return file(tokenizer, SENTENCE_SPECIAL, **changes)


def byte_pairs(first=None, use_regex=True, **changes):
    """As LLaMA 3 has it: byte-level, whole pieces before merges; `first` splits before the bytes."""
    merges = [tuple(merge.split()) for merge in BYTE_MERGES]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(BYTE_PIECES)}, merges, ignore_merges=True))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, level]) if first else level
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), around(BYTE_PIECES, "<|begin|>")])
    tokenizer.decoder = decoders.ByteLevel()
    return file(tokenizer, BYTE_SPECIAL, **changes)


def llama_3(**changes):
    return byte_pairs(pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), use_regex=False, **changes)


def byte_vocabulary():
    return {"vocab.json": {piece: i for i, piece in enumerate(BYTE_PIECES)}, "merges.txt": "\n".join(["#version: 0.2", *BYTE_MERGES]) + "\n"}


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


def llama_cases():
    # With `tokenizer.json` its frame stays whatever is asked for; the unknown token goes, and the class puts the first space.
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": True, "pad_token": "<pad>"}
    yield "llama-legacy", {"tokenizer.json": sentence_piece(True), "tokenizer_config.json": settings}
    settings = {"tokenizer_class": "LlamaTokenizerFast", "legacy": False, "add_bos_token": False, "add_prefix_space": None, "unk_token": None}
    yield "llama-first", {"tokenizer.json": sentence_piece(True), "tokenizer_config.json": settings}
    yield "llama-no-prefix", {
        "config.json": {"tokenizer_class": "LlamaTokenizer"},
        "tokenizer.json": sentence_piece(False, post_processor=None),
        "tokenizer_config.json": {"legacy": True, "add_prefix_space": False, "add_bos_token": True, **TYPES},
    }
    added = {"2": token("</s>", special=True), "60": token("new", rstrip=True, special=True), "50": token("NEW", normalized=True)}
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<|begin|>", "added_tokens_decoder": added}
    yield "llama-renamed", {"tokenizer.json": sentence_piece(False, eos="</s>"), "tokenizer_config.json": settings}
    # A byte-level file makes a generic class of this one; a token that both have has the flags of the settings.
    added = {"90": token("<|end|>", lstrip=True, special=True), "80": token("new")}
    settings = {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_bos_token": False, "pad_token": "<pad>"}
    yield "llama-byte-level", {"tokenizer.json": byte_pairs(), "tokenizer_config.json": settings | {"added_tokens_decoder": added}}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_eos_token": True, "eos_token": "<|end|>", "additional_special_tokens": ["new"]}
    yield "llama-3", {"tokenizer.json": llama_3(), "tokenizer_config.json": settings | TYPES}
    yield "llama-generic", {"tokenizer.json": sentence_piece(True), "special_tokens_map.json": {"pad_token": "<pad>", "unk_token": token("new")}}
    # What of the file is dropped: single digits, and pieces to which no merge leads.
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "bos_token": "<|end|>", "added_tokens_decoder": {}}
    yield "llama-gpt2", {"tokenizer.json": byte_pairs(pre_tokenizers.Digits(True)), "tokenizer_config.json": settings}
    # This class adds its special tokens anew, without flags.
    added = {"5": token("<|end|>", lstrip=True, rstrip=True), "6": token("new", rstrip=True), "7": token("NEW", rstrip=True, special=True)}
    settings = {"tokenizer_class": "Qwen2TokenizerFast", "add_prefix_space": True, "eos_token": "<|end|>", "extra_special_tokens": ["new"]}
    yield "llama-qwen2", {"tokenizer.json": byte_pairs(), "tokenizer_config.json": settings | {"added_tokens_decoder": added}}
    yield "llama-error-vocabulary", byte_vocabulary()


def mistral_cases():
    # Generic, whatever class the files name.
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_prefix_space": False, "add_bos_token": False, "add_eos_token": True}
    yield "mistral-class", {"tokenizer.json": sentence_piece(True), "tokenizer_config.json": settings | {"pad_token": "<pad>"}}
    tokens = {"bos_token": "<s>", "additional_special_tokens": ["new", "NEW"]}
    yield "mistral-no-class", {"tokenizer.json": sentence_piece(False, eos="</s>"), "special_tokens_map.json": tokens}


def qwen2_cases():
    settings = {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "bos_token": None, "pad_token": "<pad>"}
    yield "qwen2-file", {"tokenizer.json": byte_pairs(), "tokenizer_config.json": settings}
    # Its own class, whatever class the files name.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_eos_token": True, **TYPES}
    yield "qwen2-class", {"tokenizer.json": llama_3(post_processor=None), "tokenizer_config.json": settings}
    # Without `tokenizer.json` the frame is what is asked for, as far as there are such tokens.
    yield "qwen2-vocabulary", byte_vocabulary() | {"tokenizer_config.json": {"add_bos_token": True}}
    settings = {"add_bos_token": True, "bos_token": "new", "add_eos_token": True, "eos_token": "<|end|>", "pad_token": None, **TYPES}
    added = {"70": token("<s>", special=True), "60": token("</s>", lstrip=True)}
    yield "qwen2-vocabulary-config", byte_vocabulary() | {"tokenizer_config.json": settings | {"added_tokens_decoder": added}}
    yield "qwen2-error-merges", {"vocab.json": byte_vocabulary()["vocab.json"]}


def qwen3_cases():
    tokens = {"eos_token": "<|end|>", "pad_token": "<pad>"}
    yield "qwen3-no-class", {"tokenizer.json": byte_pairs(pre_tokenizers.Digits(True)), "special_tokens_map.json": tokens}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, **tokens}
    yield "qwen3-generic", {"tokenizer.json": byte_pairs(), "tokenizer_config.json": settings}


def write(folder, family, files):
    config = {"model_type": family, "vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config |= {"max_position_embeddings": 64, "type_vocab_size": 2}
    fixtures.fresh(folder)
    for name, content in {**files, "config.json": config | files.get("config.json", {})}.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def encode(folder, inputs, decodes):
    """The rows of one directory, with the text of their ids if it `decodes`; the object that says so where transformers cannot load it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (TypeError, ValueError):
        return {"error": True}
    rows = []
    for text, pair, limit in inputs:
        encoded = tokenizer(text, pair, truncation=limit is not None, max_length=limit)
        ids = encoded["input_ids"]
        row = {"text": text, "text_pair": pair, "max_tokens": limit, "ids": ids, "types": encoded.get("token_type_ids", [0] * len(ids))}
        if decodes:
            row["decoded"] = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        rows.append(row)
    return rows


def generate(out):
    transformers.utils.logging.set_verbosity_error()
    folder = fixtures.fresh(out / "tokenizers")
    cases = {}
    encoders = {"bert": bert_cases, "roberta": roberta_cases}
    families = encoders | {"llama": llama_cases, "mistral": mistral_cases, "qwen2": qwen2_cases, "qwen3": qwen3_cases}
    for family, made in families.items():
        inputs = ENCODED if family in encoders else DECODED
        for name, files in made():
            write(folder / name, family, files)
            cases[name] = encode(folder / name, inputs, decodes=family not in encoders)
    one = lambda rows: json.dumps(rows) if isinstance(rows, dict) else "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
    text = ",\n".join(f"{json.dumps(name)}: {one(rows)}" for name, rows in cases.items())
    (folder / "cases.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    fixtures.main(generate)
