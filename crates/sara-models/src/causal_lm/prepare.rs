//! What a run of this task learns from, and how it trains.

use std::fmt::Display;
use std::path::Path;

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use rand::seq::SliceRandom;
use sara_core::Seed;
use sara_core::parameters::Tensors;
use sara_ops::LayerOps;
use sara_svd::SvdOps;
use serde_json::{Value, json};

use super::{CausalLm, ChatTokenizer, Dataset, Examples, Item, Kept, Packing, Report, causal_lm};
use crate::adapted::Answer;
use crate::architecture::Architecture;
use crate::data::{Rows, Task, VALID_SHARE, count_apart, keep_apart, note_apart};
use crate::decoder::config::DecoderConfig;
use crate::decoder::{Decoder, DecoderCheckpoint, LoadedDecoder, check_tokens};
use crate::error::{Error, Result};
use crate::run::{BackboneDropout, Data, Fitted, Learnable, Learned, Learner, Prepared, Ready, Run, Trains};
use crate::train::{Journal, NoHead, Options, Snapshot};

impl Learnable for Dataset {
    fn rows(&self, data: &Data) -> usize {
        self.rows(packing(data)).len()
    }

    fn examples(&self) -> usize {
        self.items.len()
    }

    fn fingerprint(&self) -> String {
        Self::fingerprint(self)
    }

    fn report(&self) -> &dyn Display {
        &self.report
    }

    fn plan(&self, run: &Run, config: &dyn Architecture, weight_bytes: usize) -> Option<Value> {
        const SHOWN: usize = 3;
        let sample = |item: &Item| json!({"tokens": item.ids, "trained": item.trained});
        let samples: Vec<Value> = self.items.iter().take(SHOWN).map(sample).collect();
        let Report { examples, tokens, trained_tokens, truncated, dropped, boundary_moved, .. } =
            &self.report;
        Some(json!({
            "samples": samples,
            "examples": examples,
            "tokens": tokens,
            "trained_tokens": trained_tokens,
            "truncated": truncated,
            "dropped": dropped,
            "boundary_moved": boundary_moved,
            "memory_bytes": self.memory_bytes(run, config, weight_bytes),
        }))
    }
}

impl Dataset {
    /// About how much memory a run on the CPU takes: the weights, and of the longest micro-batch what its way back needs.
    fn memory_bytes(&self, run: &Run, config: &dyn Architecture, weight_bytes: usize) -> u64 {
        const F32: usize = 4;
        let lengths = self.lengths();
        let rows = self.rows(packing(&run.data));
        let longest = rows.iter().map(|row| row.iter().map(|&item| lengths[item]).sum::<usize>()).max();
        let tokens = longest.unwrap_or(0) * run.optimizer.batch_size.min(rows.len());
        // The input of each linear layer, and what stands between them, once more.
        let mut widths: usize = config.linears().iter().map(|linear| linear.d_in + linear.d_out).sum();
        if run.gradient_checkpointing {
            // Of one block, and what goes into each.
            let blocks = config.shape().n_layers.max(1);
            widths = widths / blocks + blocks * config.linears().first().map_or(0, |linear| linear.d_in);
        }
        let parameters = config.parameter_count();
        let of_linears: usize = config.linears().iter().map(|linear| linear.d_in * linear.d_out).sum();
        let weights = run.dtype.memory_bytes(parameters, parameters - of_linears, weight_bytes);
        (weights + tokens * widths * F32) as u64
    }
}

/// How the run file says that texts share rows.
fn packing(data: &Data) -> Packing {
    if data.packing { Packing::UpTo(data.max_tokens.unwrap_or(usize::MAX)) } else { Packing::Alone }
}

impl Trains for DecoderConfig {
    type Data = Dataset;

    fn learn(run: &Run, checkpoint: &DecoderCheckpoint) -> Result<Learned<Dataset>> {
        let Run { data, .. } = run;
        let tokenizer = &ChatTokenizer::load(&checkpoint.dir)?;
        let mut notes = Vec::new();
        if let BackboneDropout::Rate(rate) = run.backbone_dropout
            && rate > 0.0
        {
            return Err(Error::Config {
                field: "backbone_dropout".to_owned(),
                found: rate.to_string(),
                expected: "0 for a language model, whose backbone has no dropout".to_owned(),
            });
        }
        let read = |path: &Path| Examples::of_rows(&Rows::read(path, data.format)?);
        let train = read(&data.train)?;
        let (train, valid) = if let Some(valid) = &data.valid {
            (train, read(valid)?)
        } else {
            let (train, valid) = split(train, data.valid_share.unwrap_or(VALID_SHARE), Seed(run.seed))?;
            notes.push(note_apart(valid.list.len(), train.list.len(), run.seed));
            (train, valid)
        };
        let max_tokens = data.max_tokens.unwrap_or(usize::MAX);
        let prepare = |examples: &Examples| {
            let data = Dataset::prepare(examples, tokenizer, max_tokens, data.train_on)?;
            check_tokens(&checkpoint.config, &data, tokenizer)?;
            Ok::<_, Error>(data)
        };
        let answer = Answer { task: Task::CausalLm, classes: Vec::new() };
        let (train, valid) = (prepare(&train)?, prepare(&valid)?);
        Ok(Learned { answer, train, valid, tokenizer: tokenizer.fingerprint()?, notes })
    }

    fn open<B: LayerOps>(
        prepared: &Prepared<Self>,
        _start: &Tensors,
        say: &mut dyn FnMut(&'static str, &str),
        device: &B::Device,
    ) -> Result<Ready<Self, B>> {
        let LoadedDecoder { model, notes } =
            prepared.checkpoint.load::<Autodiff<B>>(prepared.run.dtype, device)?;
        for note in &notes {
            say("note", note);
        }
        Ok((model, NoHead::default()))
    }

    fn train<B: LayerOps + SvdOps>(
        prepared: &Prepared<Self>,
        model: &Decoder<Autodiff<B>>,
        options: Options,
        trained: Learner<Self, B>,
        resume: Option<Snapshot>,
        journal: &mut impl Journal<Learner<Self, B>>,
    ) -> Result<Fitted<Self, B>> {
        let Prepared { run, train, valid, .. } = prepared;
        let packing = packing(&run.data);
        let kept = if run.gradient_checkpointing { Kept::Blocks } else { Kept::All };
        let task = CausalLm { model, train, valid: Some(valid), packing, kept, options };
        causal_lm(&task, trained, resume, journal)
    }

    fn inner<B: LayerOps>(model: Decoder<Autodiff<B>>, head: NoHead<Autodiff<B>>) -> (Decoder<B>, NoHead<B>) {
        (model.valid(), head.valid())
    }
}

/// Keeps a share of the examples apart, chosen by `seed`; both sides keep the order of the file.
fn split(examples: Examples, share: f64, seed: Seed) -> Result<(Examples, Examples)> {
    let mut used: Vec<usize> =
        (0..examples.list.len()).filter(|&place| examples.list[place].1.is_some()).collect();
    let wanted = count_apart(used.len(), share, &examples.path)?;
    used.shuffle(&mut seed.rng("valid"));
    used.truncate(wanted);
    let Examples { path, list, notes } = examples;
    let (train, valid) = keep_apart(list, &used);
    let side = |list, notes| Examples { path: path.clone(), list, notes };
    Ok((side(train, notes), side(valid, Vec::new())))
}
