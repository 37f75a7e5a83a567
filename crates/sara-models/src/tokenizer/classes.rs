//! The classes of tokenizers: which one a checkpoint asks for, and what each has of its own.

/// What a class of transformers makes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `WordPiece`; BERT's normalizer and frame.
    Bert,
    /// The same without token types.
    DistilBert,
    /// Byte-level BPE; RoBERTa's frame.
    Roberta,
    /// Unigram, as multilingual encoders have it; the frame has no types.
    XlmRoberta,
    /// BPE of pieces with bytes to fall back on, as `SentencePiece` makes it; the frame of the file.
    Llama,
    /// Byte-level BPE of normalized text; the frame of the file.
    Qwen2,
    /// Byte-level BPE; the frame of the file.
    Gpt2,
    /// `tokenizer.json` as it stands.
    Generic,
}

/// Special tokens by their names in the configuration, in the order in which they are added.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const BERT: [&str; 6] = ["Bert", "Electra", "MobileBert", "SqueezeBert", "Lxmert", "LayoutLM"];
const ROBERTA: [&str; 5] = ["Roberta", "Bart", "Longformer", "LED", "Mvp"];

/// Classes that transformers has and that make something else of the files; any other name is generic.
const OTHERS: &str = "Albert Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt Blenderbot \
    BlenderbotSmall ByT5 CLIP CTRL Camembert Canine Clvp CodeGen CodeLlama Cohere ConvBert Cpm CpmAnt DPRContextEncoder \
    DPRQuestionEncoder DPRReader Deberta DebertaV2 Dia Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel \
    GPTNeoX GPTNeoXJapanese GPTSw3 Gemma Herbert Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke M2M100 MBart MBart50 \
    MLuke MPNet Marian MarkupLM Mgpstr MyT5 Nllb Nougat OpenAIGPT PLBart Parakeet Pegasus Perceiver Phobert Pop2Piano \
    ProphetNet Qwen3_5 Rag Reformer RemBert RoCBert RoFormer SeamlessM4T Siglip Siglip2 Speech2Text SpeechT5 \
    Splinter T5 Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLM XLNet";

impl Class {
    /// The class that is asked for by its name, or else by the type of the model; `is_byte_level` says so of
    /// `tokenizer.json`.
    pub(super) fn of(
        name: Option<&str>,
        model_type: Option<&str>,
        is_byte_level: bool,
    ) -> Result<Self, String> {
        // The library does not believe the names that checkpoints of these models have.
        match model_type {
            _ if name == Some("") => return Ok(Self::Generic),
            Some("mistral") => return Ok(Self::Generic),
            Some("qwen2") => return Ok(Self::Qwen2),
            _ => {}
        }
        let Some(name) = name else {
            return Ok(match model_type {
                Some("bert") => Self::Bert,
                Some("roberta") => Self::Roberta,
                Some("qwen3") => Self::Qwen2,
                _ => Self::Generic,
            });
        };
        let short = name.strip_suffix("Fast").unwrap_or(name);
        let short = short.strip_suffix("Tokenizer").unwrap_or("");
        if BERT.contains(&short) {
            Ok(Self::Bert)
        } else if ROBERTA.contains(&short) {
            Ok(Self::Roberta)
        } else if short == "DistilBert" {
            Ok(Self::DistilBert)
        } else if short == "XLMRoberta" {
            Ok(Self::XlmRoberta)
        } else if short == "Llama" {
            Ok(if is_byte_level { Self::Generic } else { Self::Llama })
        } else if short == "Qwen2" {
            Ok(Self::Qwen2)
        } else if short == "GPT2" {
            Ok(Self::Gpt2)
        } else if OTHERS.split_whitespace().any(|other| other == short) || name == "BertTokenizerLegacy" {
            Err(format!(
                "tokenizer_class {name} is not supported; load it in transformers and save what it makes as a \
                 PreTrainedTokenizerFast"
            ))
        } else {
            Ok(Self::Generic)
        }
    }

    /// The special token under this name where the files do not say another.
    pub(super) fn default_token(self, name: &str) -> Option<&'static str> {
        match (self, name) {
            (Self::Bert | Self::DistilBert, "unk_token") => Some("[UNK]"),
            (Self::Bert | Self::DistilBert, "sep_token") => Some("[SEP]"),
            (Self::Bert | Self::DistilBert, "pad_token") => Some("[PAD]"),
            (Self::Bert | Self::DistilBert, "cls_token") => Some("[CLS]"),
            (Self::Bert | Self::DistilBert, "mask_token") => Some("[MASK]"),
            (Self::Roberta | Self::XlmRoberta, "bos_token" | "cls_token") | (Self::Llama, "bos_token") => {
                Some("<s>")
            }
            (Self::Roberta | Self::XlmRoberta, "eos_token" | "sep_token") | (Self::Llama, "eos_token") => {
                Some("</s>")
            }
            (Self::Roberta | Self::XlmRoberta | Self::Llama, "unk_token") => Some("<unk>"),
            (Self::Roberta | Self::XlmRoberta, "pad_token") => Some("<pad>"),
            (Self::Roberta | Self::XlmRoberta, "mask_token") => Some("<mask>"),
            (Self::Qwen2, "unk_token" | "eos_token" | "pad_token")
            | (Self::Gpt2, "unk_token" | "eos_token" | "bos_token") => Some("<|endoftext|>"),
            _ => None,
        }
    }
}
