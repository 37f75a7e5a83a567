//! RoBERTa, BERT, LLaMA, Mistral and Qwen with adapters: loading, data, training.
//!
//! A directory as Hugging Face writes it becomes a frozen [`Encoder`](encoder::Encoder) and a
//! [`Head`](encoder::head::Head), files of labelled texts become a [`Dataset`](classify::Dataset), and
//! [`classify`](classify::classify()) trains an adapter of `sara-core` beside the encoder. A [`Decoder`](decoder::Decoder)
//! learns likewise from texts and conversations by [`causal_lm`](causal_lm::causal_lm()), and writes by
//! [`generate`](causal_lm::generate::generate()). The command `sara` does the same from a run file, and so does
//! [`run::Prepared`].
//!
//! # From a checkpoint and a file to a classifier
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn_flex::{Flex, FlexDevice};
//! use sara_core::MethodConfig;
//! use sara_models::classify::FineTune;
//! use sara_models::data::{self, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let examples = data::read(Path::new("train.jsonl"), Task::Classify)?;
//! let method: MethodConfig = serde_json::from_str(r#"{"sara": {"share": 0.05}}"#)?;
//! let tuned = FineTune::by(method).run::<Flex>(Path::new("roberta-base"), &examples, &FlexDevice)?;
//! println!("{:?}", tuned.classify(&["a text of its own"])?);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/finetune.rs` merges the adapter too, and runs on the model that `sara demo` brings along; `fine_tune.rs`
//! shows the steps that this takes, for programs that want them one by one.
//!
//! # The modules, in reading order
//!
//! 1. [`architecture`]: what a family of models is to everything around it.
//! 2. [`checkpoint`]: the files of a pretrained model of any family, memory-mapped; loaded strictly, and written again with
//!    merged weights.
//! 3. [`encoder`]: the family of RoBERTa and BERT, its configuration, its loading, its task head; [`decoder`]: that of
//!    LLaMA, Mistral and Qwen.
//! 4. [`tokenizer`] and [`data`]: files to examples, and the order of an epoch.
//! 5. [`train`]: the loop and one optimizer step for any model and task, with their parts, and what the loop asks of a
//!    [`Journal`](train::Journal).
//! 6. [`mod@classify`]: the task of classifying texts: classes, datasets, loss, evaluation; [`mod@causal_lm`]: that
//!    of going on with them, with chat templates and generation.
//! 7. [`adapted`]: a model opened with an adapter of its own or of PEFT; PEFT's files, and a merged checkpoint.
//! 8. [`run`]: the run file, what a run does, and the directory that it writes; [`plot`] draws its pictures.
//!
//! # What holds
//!
//! * The frozen model is never given to an optimizer and gets no gradient.
//! * On the CPU backends the same seed gives the same bits, and a resumed run those of an uninterrupted one.
//! * A checkpoint is used whole, or one [`Error`] lists all that does not fit.
//! * No data, file or configuration makes this crate panic.
//!
//! # Features
//!
//! `flex` (default), `ndarray`, `wgpu` and `cuda` are the backends; `autotune` times GPU kernels and keeps the fastest.
//! `parquet` (default) reads data files of that format. `cli` (default) is what the command needs and the library does not.

pub mod adapted;
pub mod architecture;
pub mod causal_lm;
pub mod checkpoint;
pub mod classify;
pub mod data;
pub mod decoder;
pub mod encoder;
pub mod error;
mod fingerprint;
pub mod hub;
pub mod plot;
mod python_json;
pub mod run;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
