//! From the files of a checkpoint to the tokenizer that transformers 5 makes of them.
//!
//! A class with a name is built anew: of `tokenizer.json` it takes vocabulary, merges and added tokens alone, and the rest
//! from `tokenizer_config.json` or its own defaults. A generic class takes the file as it stands.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer, TruncationDirection};

use super::classes::{Class, NAMED};
use super::special::Special;
use crate::architecture::CONFIG;
use crate::python_json;

/// A tokenizer, and what it asks of whoever encodes with it.
pub(super) struct Built {
    pub(super) inner: Tokenizer,
    /// Whether the model gets the types, or zeros.
    pub(super) has_types: bool,
    /// The side on which texts are cut.
    pub(super) cut: TruncationDirection,
    /// Special tokens by their names in the configuration.
    pub(super) special: BTreeMap<&'static str, String>,
}

/// What is wrong, and with which file.
pub(super) type Wrong = (&'static str, String);

/// What Qwen2 takes for a word: contractions, words with what stands before them, single digits, signs, line ends, spaces.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const FILE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Reads the files in `dir`.
pub(super) fn build(dir: &Path) -> Result<Built, Wrong> {
    let config = object(dir, CONFIG)?.unwrap_or_default();
    let settings = object(dir, SETTINGS)?.unwrap_or_default();
    let of_settings = |problem: String| (SETTINGS, problem);
    let file = object(dir, FILE)?.map(Value::Object);
    let named =
        |map: &Map<String, Value>| map.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
    let name = named(&settings).or_else(|| named(&config));
    let model_type = config.get("model_type").and_then(Value::as_str);
    let is_byte_level = fs::read_to_string(dir.join(FILE)).is_ok_and(|text| text.contains("\"ByteLevel\""));
    let class = Class::of(name.as_deref(), model_type, is_byte_level).map_err(of_settings)?;
    if let Some(files) = settings.get("fast_tokenizer_files").and_then(Value::as_array)
        && files.iter().any(|file| file != FILE)
    {
        return Err(of_settings(
            "fast_tokenizer_files names other files; save the tokenizer again".to_owned(),
        ));
    }
    let (map, added) = (object(dir, MAP)?.unwrap_or_default(), object(dir, ADDED)?.unwrap_or_default());
    let has_tokens = file.as_ref().is_none_or(|file| file["added_tokens"].is_array());
    if !has_tokens && !settings.contains_key("added_tokens_decoder") {
        return Err((
            FILE,
            "is not a tokenizer: it has no added_tokens; save it again or copy it anew".to_owned(),
        ));
    }
    let special = Special::read(class, &settings, &map, &added, file.as_ref()).map_err(of_settings)?;
    let mut inner = match class {
        Class::Generic => generic(dir)?,
        _ => named_class(dir, class, &settings, file.as_ref(), &special)?,
    };
    inner.with_padding(None);
    // Removing the limit cannot fail; only setting one can.
    let failed = |error: tokenizers::Error| (FILE, one_line(&*error));
    inner.with_truncation(None).map_err(failed)?;
    inner.add_tokens(&special.added);
    frame(&mut inner, class, &special, &settings, file.as_ref())?;
    let split = settings.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
    inner.set_encode_special_tokens(split);
    let cut = cut(&settings, file.as_ref()).map_err(of_settings)?;
    let has_types = match settings.get("model_input_names") {
        None => class == Class::Bert,
        Some(Value::Array(names)) => names.iter().any(|name| name == "token_type_ids"),
        Some(other) => {
            return Err(of_settings(format!("model_input_names is {other}; write a list of names")));
        }
    };
    let special =
        NAMED.into_iter().filter_map(|name| Some((name, special.named(name)?.to_owned()))).collect();
    Ok(Built { inner, has_types, cut, special })
}

/// The object in a file, if there is such a file.
fn object(dir: &Path, name: &'static str) -> Result<Option<Map<String, Value>>, Wrong> {
    let text = match fs::read_to_string(dir.join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err((name, error.to_string())),
    };
    let what = if name == FILE { "is not a tokenizer" } else { "is not a JSON object" };
    python_json::parse(&text)
        .map(|(object, _)| Some(object))
        .map_err(|error| (name, format!("{what}: {error}; save it again or copy it anew")))
}

fn generic(dir: &Path) -> Result<Tokenizer, Wrong> {
    let bytes = fs::read(dir.join(FILE)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => (FILE, missing("")),
        _ => (FILE, error.to_string()),
    })?;
    of_bytes(&bytes)
}

/// That there is no tokenizer in any form that its class reads.
fn missing(vocabulary: &str) -> String {
    format!(
        "does not exist; the checkpoint needs it{vocabulary}, as transformers writes it with \
         `AutoTokenizer.from_pretrained(..).save_pretrained(..)`"
    )
}

fn of_bytes(bytes: &[u8]) -> Result<Tokenizer, Wrong> {
    Tokenizer::from_bytes(bytes).map_err(|error| {
        (FILE, format!("is not a tokenizer: {}; save it again or copy it anew", one_line(&*error)))
    })
}

/// The tokenizer of a class with a name, without its frame and added tokens.
fn named_class(
    dir: &Path,
    class: Class,
    settings: &Map<String, Value>,
    file: Option<&Value>,
    special: &Special,
) -> Result<Tokenizer, Wrong> {
    let flag = |key: &'static str, default: bool| match settings.get(key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err((SETTINGS, format!("{key} is {other}; write true or false"))),
    };
    let mut decoder = Value::Null;
    let (normalizer, pre_tokenizer, model) = match class {
        Class::Bert | Class::DistilBert => {
            let normalizer = json!({
                "type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
                "strip_accents": settings.get("strip_accents").cloned().unwrap_or_default(),
                "lowercase": flag("do_lower_case", true)?,
            });
            let vocab = match file {
                Some(file) => words(&file["model"]["vocab"])?,
                None => lines(dir)?,
            };
            let model = json!({
                "type": "WordPiece", "unk_token": special.named("unk_token").unwrap_or("None"),
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab,
            });
            (normalizer, json!({"type": "BertPreTokenizer"}), model)
        }
        Class::Roberta => {
            let (vocab, merges) = match file {
                Some(file) => (words(&file["model"]["vocab"])?, file["model"]["merges"].clone()),
                None => vocabulary(dir)?,
            };
            let model = bpe(&vocab, &merges, Bytes::All);
            let prefix = flag("add_prefix_space", false)?;
            let pre = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
            (Value::Null, pre, model)
        }
        Class::Llama | Class::Qwen2 | Class::Gpt2 => {
            let [normalizer, pre_tokenizer, model, of_class] = pieces(dir, class, settings, file)?;
            decoder = of_class;
            (normalizer, pre_tokenizer, model)
        }
        Class::XlmRoberta | Class::Generic => {
            let file = file.ok_or_else(|| (FILE, missing("")))?;
            let scheme = if flag("add_prefix_space", true)? { "always" } else { "never" };
            let metaspace =
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
            let pre = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]});
            let vocab = &file["model"]["vocab"];
            let model = json!({"type": "Unigram", "vocab": vocab, "unk_id": 3, "byte_fallback": false});
            (precompiled(&file["normalizer"]), pre, model)
        }
    };
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    });
    of_bytes(document.to_string().as_bytes())
}

/// Normalizer, pre-tokenizer, model and decoder of the classes that came with decoders.
fn pieces(
    dir: &Path,
    class: Class,
    settings: &Map<String, Value>,
    file: Option<&Value>,
) -> Result<[Value; 4], Wrong> {
    let flag = |key: &'static str, default: bool| match settings.get(key) {
        None => Ok(default),
        Some(Value::Null) if class != Class::Gpt2 => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err((SETTINGS, format!("{key} is {other}; write true or false"))),
    };
    if class == Class::Llama {
        let file = file.ok_or_else(|| (FILE, missing("")))?;
        let prefix = flag("add_prefix_space", true)?;
        let scheme = match (prefix, flag("legacy", false)?) {
            (false, _) => "never",
            (true, true) => "always",
            (true, false) => "first",
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let pre = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let model = bpe(&words(&file["model"]["vocab"])?, &file["model"]["merges"], Bytes::FallBack);
        return Ok([Value::Null, pre, model, json!({"type": "Sequence", "decoders": decoders})]);
    }
    let (vocab, merges) = match file {
        Some(file) => (words(&file["model"]["vocab"])?, file["model"]["merges"].clone()),
        None => vocabulary(dir)?,
    };
    let prefix = flag("add_prefix_space", false)?;
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex});
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let model = bpe(&vocab, &merges, Bytes::All);
    if class == Class::Gpt2 {
        return Ok([Value::Null, bytes(true), model, decoder]);
    }
    let split =
        json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
    let pre = json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]});
    Ok([json!({"type": "NFC"}), pre, model, decoder])
}

/// How a model of pieces meets text that it has no piece for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Every piece is one of bytes, so there is no such text.
    All,
    /// By a piece for each byte.
    FallBack,
}

/// A model of pairs of pieces that are merged, with none of the file's own options.
fn bpe(vocab: &Value, merges: &Value, bytes: Bytes) -> Value {
    let falls_back = bytes == Bytes::FallBack;
    let affix = if falls_back { Value::Null } else { json!("") };
    let merges = if merges.is_null() { json!([]) } else { merges.clone() };
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": affix,
        "end_of_word_suffix": affix, "fuse_unk": falls_back, "byte_fallback": falls_back, "ignore_merges": false,
        "vocab": vocab, "merges": merges,
    })
}

/// Ids by word; a list has them by place.
fn words(vocab: &Value) -> Result<Value, Wrong> {
    match vocab {
        Value::Object(_) => Ok(vocab.clone()),
        Value::Array(pieces) => {
            let word = |piece: &Value| piece.get(0).unwrap_or(piece).as_str().map(str::to_owned);
            let ids = pieces.iter().zip(0_u64..).filter_map(|(piece, id)| Some((word(piece)?, id.into())));
            Ok(Value::Object(ids.collect()))
        }
        _ => {
            Err((FILE, "is not a tokenizer: it has no vocabulary; save it again or copy it anew".to_owned()))
        }
    }
}

/// `vocab.txt`: a word a line.
fn lines(dir: &Path) -> Result<Value, Wrong> {
    let text = read(dir, "vocab.txt")?;
    let ids = text.strip_suffix('\n').unwrap_or(&text).split('\n').zip(0_u64..);
    Ok(Value::Object(ids.map(|(word, id)| (word.trim_end().to_owned(), id.into())).collect()))
}

/// `vocab.json` and `merges.txt`.
fn vocabulary(dir: &Path) -> Result<(Value, Value), Wrong> {
    read(dir, "vocab.json")?;
    let merges = read(dir, "merges.txt")?;
    let vocab = object(dir, "vocab.json")?.unwrap_or_default();
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(merges.lines()).filter(|(_, line)| !line.starts_with("#version")) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] => pairs.push(json!([left, right])),
            _ => return Err(("merges.txt", format!("line {number} is `{line}`; a merge is two pieces"))),
        }
    }
    Ok((Value::Object(vocab), pairs.into()))
}

fn read(dir: &Path, name: &'static str) -> Result<String, Wrong> {
    fs::read_to_string(dir.join(name)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => (FILE, missing(&format!(", or else {name}"))),
        _ => (name, error.to_string()),
    })
}

/// The table of a normalizer that has one, which is all that is kept of it.
fn precompiled(normalizer: &Value) -> Value {
    let all = normalizer["normalizers"].as_array().cloned().unwrap_or_else(|| vec![normalizer.clone()]);
    all.into_iter().find(|one| one["type"] == "Precompiled").unwrap_or_default()
}

/// Puts the class's special tokens around texts; a generic tokenizer without a frame has none.
fn frame(
    inner: &mut Tokenizer,
    class: Class,
    special: &Special,
    settings: &Map<String, Value>,
    file: Option<&Value>,
) -> Result<(), Wrong> {
    let token = |key: &'static str| {
        let content = special.named(key).ok_or((SETTINGS, format!("{key} is null; its class needs one")))?;
        let id = inner.token_to_id(content).unwrap_or_default();
        Ok::<_, Wrong>((content.to_owned(), id))
    };
    let piece = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let ids = |tokens: &[&(String, u32)]| -> Value {
        let entry =
            |(name, id): &(String, u32)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]}));
        Value::Object(tokens.iter().map(|token| entry(token)).collect())
    };
    let document = match class {
        Class::Bert | Class::DistilBert => {
            let (cls, sep) = (token("cls_token")?, token("sep_token")?);
            let single = [piece(&cls.0, 0), text("A", 0), piece(&sep.0, 0)];
            let pair = single.iter().cloned().chain([text("B", 1), piece(&sep.0, 1)]).collect::<Value>();
            json!({
                "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids(&[&cls, &sep]),
            })
        }
        Class::Roberta => {
            let (cls, sep) = (token("cls_token")?, token("sep_token")?);
            json!({
                "type": "RobertaProcessing", "sep": [sep.0, sep.1], "cls": [cls.0, cls.1],
                "trim_offsets": true, "add_prefix_space": false,
            })
        }
        Class::XlmRoberta => {
            let (bos, eos) = (token("bos_token")?, token("eos_token")?);
            let single = [piece(&bos.0, 0), text("A", 0), piece(&eos.0, 0)];
            let second = [piece(&eos.0, 0), text("B", 0), piece(&eos.0, 0)];
            let pair = single.iter().chain(&second).cloned().collect::<Value>();
            json!({
                "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids(&[&bos, &eos]),
            })
        }
        Class::Generic if inner.get_post_processor().is_some() => return Ok(()),
        Class::Llama | Class::Qwen2 | Class::Gpt2
            if file.is_some_and(|file| !file["post_processor"].is_null()) =>
        {
            file.map_or(Value::Null, |file| file["post_processor"].clone())
        }
        Class::Qwen2 | Class::Gpt2 if file.is_none() => {
            let asked = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
            let end = |flag: &str, key: &'static str| {
                let is_there = asked(flag) && special.named(key).is_some();
                is_there.then(|| token(key)).transpose()
            };
            let (bos, eos) = (end("add_bos_token", "bos_token")?, end("add_eos_token", "eos_token")?);
            let around = |id: &str, kind: u32| -> Vec<Value> {
                let before = bos.iter().map(|(name, _)| piece(name, kind));
                let behind = eos.iter().map(|(name, _)| piece(name, kind));
                before.chain([text(id, kind)]).chain(behind).collect()
            };
            let all: Vec<&(String, u32)> = bos.iter().chain(&eos).collect();
            let pair = [around("A", 0), around("B", 1)].concat();
            json!({
                "type": "TemplateProcessing", "single": around("A", 0),
                "pair": pair, "special_tokens": ids(&all),
            })
        }
        Class::Generic | Class::Llama | Class::Qwen2 | Class::Gpt2 => json!({
            "type": "TemplateProcessing", "single": [text("A", 0)], "pair": [text("A", 0), text("B", 1)],
            "special_tokens": {},
        }),
    };
    let frame: PostProcessorWrapper =
        serde_json::from_value(document).map_err(|error| (SETTINGS, format!("has no frame: {error}")))?;
    inner.with_post_processor(Some(frame));
    Ok(())
}

/// The side on which texts are cut.
fn cut(settings: &Map<String, Value>, file: Option<&Value>) -> Result<TruncationDirection, String> {
    let side = if let Some(side) = settings.get("truncation_side") {
        side.as_str().unwrap_or("null").to_owned()
    } else {
        let of_file = file.and_then(|file| file["truncation"]["direction"].as_str());
        of_file.unwrap_or("right").to_lowercase()
    };
    match side.as_str() {
        "left" => Ok(TruncationDirection::Left),
        "right" => Ok(TruncationDirection::Right),
        other => Err(format!("truncation_side is {other}; write left or right")),
    }
}

fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
