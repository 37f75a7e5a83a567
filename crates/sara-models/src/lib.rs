//! RoBERTa and BERT with adapters: loading, data, training.
//!
//! A directory as Hugging Face writes it becomes a frozen [`Encoder`](encoder::Encoder) and a [`Head`](heads::Head), files
//! of labelled texts become a [`Dataset`](classify::Dataset), and [`classify`](classify::classify()) trains an adapter of
//! `sara-core` beside the encoder. The command `sara` does the same from a run file.
//!
//! # From a checkpoint and two files to an adapter
//!
//! ```no_run
//! use std::num::NonZeroUsize;
//! use std::path::Path;
//!
//! use burn::module::AutodiffModule;
//! use burn_autodiff::Autodiff;
//! use burn_flex::{Flex, FlexDevice};
//! use sara_core::{MethodConfig, Seed, Targets};
//! use sara_models::classify::{Classes, Dataset, Labels};
//! use sara_models::data::{self, Task};
//! use sara_models::classify::evaluate::evaluate;
//! use sara_models::checkpoint::Checkpoint;
//! use sara_models::encoder::Loaded;
//! use sara_models::tokenizer::Tokenizer;
//! use sara_models::classify::classify;
//! use sara_models::train::{Options, Trained};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (dir, device) = (Path::new("roberta-base"), FlexDevice);
//! let (checkpoint, tokenizer) = (<Checkpoint>::open(dir)?, Tokenizer::load(dir)?);
//!
//! // Texts become token ids, labels become classes.
//! let examples = data::read(Path::new("train.jsonl"), Task::Classify)?;
//! let classes = Classes::of_data(&examples)?;
//! let prepare = |examples| Dataset::prepare(examples, &tokenizer, 128, Labels::Classes(&classes));
//! let train = prepare(&examples)?;
//! let valid = prepare(&data::read(Path::new("valid.jsonl"), Task::Classify)?)?;
//! println!("{}", train.report);
//!
//! // The ranks of SARA, from the weights of the layers that are adapted.
//! let method: MethodConfig = serde_json::from_str(r#"{"sara": {"share": 0.05}}"#)?;
//! let targets =
//!     Targets::Named(vec!["query".into(), "value".into()]).select(&checkpoint.config.linears())?;
//! let plan = method.plan(&targets, &mut checkpoint.weight_source::<Flex>(&device))?;
//!
//! // The encoder is frozen; adapter and head are trained.
//! let Loaded { model, head, .. } =
//!     checkpoint.load::<Autodiff<Flex>>(classes.names().len(), Seed(0), &device)?;
//! let adapter = method.init(checkpoint.config.shape(), &plan, Seed(0), &device)?;
//! let trained = Trained::new(adapter, head);
//! let outcome = classify(&model, trained, &train, Some(&valid), &Options::default(), None, &mut ())?;
//!
//! let metrics = evaluate(&model.valid(), &outcome.trained.valid(), &valid, NonZeroUsize::MIN)?;
//! println!("accuracy {:?}", metrics.value("accuracy"));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/finetune.rs` merges the adapter too, and runs on the model that `sara demo` brings along.
//!
//! # The modules, in reading order
//!
//! 1. [`config`]: `config.json`, everything about a model but its weights.
//! 2. [`pretrained`] and [`weights`]: a checkpoint, memory-mapped; loaded strictly, and written again with merged weights.
//! 3. [`encoder`] and [`heads`]: what is computed. [`ops`] holds its operations as an extension of burn's backends.
//! 4. [`tokenizer`] and [`data`]: files to examples, classes, token ids, batches, and a printable report.
//! 5. [`train`]: the loop, to be read from top to bottom, and what it asks of a [`Journal`](train::Journal).
//!    [`optimizer`] and [`schedule`] are its parts.
//! 6. [`evaluate`] and [`metrics`]: logits, and what they are worth.
//! 7. [`adapted`] and [`handover`]: a model opened with an adapter of its own or of PEFT; PEFT's files, and a merged
//!    checkpoint.
//! 8. [`run`] and [`run_dir`]: the run file, and the directory that a run writes; [`plot`] draws its pictures.
//!
//! # What holds
//!
//! * The encoder is never given to an optimizer and gets no gradient.
//! * On the CPU backends the same seed gives the same bits, and a resumed run those of an uninterrupted one.
//! * A checkpoint is used whole, or one [`Error`] lists all that does not fit.
//! * No data, file or configuration makes this crate panic.
//!
//! # Features
//!
//! `flex` (default), `ndarray`, `wgpu` and `cuda` are the backends; `autotune` times GPU kernels and keeps the fastest.

pub mod adapted;
pub mod architecture;
pub mod checkpoint;
pub mod classify;
pub mod data;
pub mod encoder;
pub mod error;
mod nearest;
pub mod plot;
pub mod run;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
