//! The classification head: a dense layer with tanh on the first token, then one output for each label.

use std::path::Path;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_core::low_rank::linear;
use sara_core::parameters::{Tensors, edit, mismatches};
use sara_core::{LayerOps, Pass};
use serde_json::{Value, json};

use crate::adapted::Answer;
use crate::checkpoint::SavedHead;
use crate::checkpoint::weights::in_file_order;
use crate::data::Task;
use crate::encoder::EncoderCheckpoint;
use crate::encoder::config::EncoderFamily;
use crate::encoder::load::trained;
use crate::error::Error;
use crate::train::TaskHead;

/// Classification head of either family.
///
/// BERT calls the dense layer a pooler and counts it to the backbone: there it is frozen, unless the checkpoint has none
/// and it had to be drawn anew.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// RoBERTa's `classifier.dense`, BERT's `pooler.dense`.
    pub(crate) dense: Linear<B>,
    /// RoBERTa's `classifier.out_proj`, BERT's `classifier`.
    pub(crate) out_proj: Linear<B>,
    #[module(skip)]
    pub(crate) family: EncoderFamily,
    /// Whether the dense layer is trained. A backend that does not differentiate cannot tell from the parameter.
    #[module(skip)]
    pub(crate) trains_dense: bool,
    #[module(skip)]
    pub(crate) dropout: f64,
}

/// What the names of a head's tensors begin with.
pub(crate) const HEAD: &str = "classifier.";

/// Paths of the head's two linear layers in a Hugging Face model.
pub(crate) const fn paths(family: EncoderFamily) -> [&'static str; 2] {
    match family {
        EncoderFamily::Roberta => ["classifier.dense", "classifier.out_proj"],
        EncoderFamily::Bert => ["bert.pooler.dense", "classifier"],
    }
}

impl<B: Backend> Head<B> {
    /// One logit for each label.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d]`, the encoder's output, of which the first token is read
    /// - returns `[batch, n_labels]`
    pub fn forward(&self, hidden: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 2>
    where
        B: LayerOps,
    {
        let first = hidden.narrow(1, 0, 1);
        let first = match self.family {
            EncoderFamily::Roberta => pass.dropout(first, self.dropout, "head.first"),
            EncoderFamily::Bert => first,
        };
        let pooled = pass.dropout(linear(&self.dense, first).tanh(), self.dropout, "head.pooled");
        linear(&self.out_proj, pooled).squeeze_dim(1)
    }

    /// The same head with this probability of dropout.
    ///
    /// # Panics
    /// If it is not in `0..1`.
    pub fn with_dropout(self, dropout: f64) -> Self {
        assert!((0.0..1.0).contains(&dropout), "a probability of dropout of {dropout} is not in 0..1");
        Self { dropout, ..self }
    }

    /// Number of labels; one label is a regression.
    pub fn n_labels(&self) -> usize {
        self.out_proj.weight.dims()[1]
    }

    /// The trained biases, by their paths in this module.
    pub(crate) fn bias_paths(&self) -> Vec<&'static str> {
        if self.trains_dense { vec!["dense.bias", "out_proj.bias"] } else { vec!["out_proj.bias"] }
    }

    fn trained(&self) -> Vec<(&'static str, &Linear<B>)> {
        let [dense, out_proj] = paths(self.family);
        let mut trained = vec![(out_proj, &self.out_proj)];
        if self.trains_dense {
            trained.push((dense, &self.dense));
        }
        trained
    }
}

impl<B: Backend> TaskHead<B> for Head<B> {
    fn modules_to_save(&self) -> Vec<&'static str> {
        if self.family == EncoderFamily::Bert && self.trains_dense {
            vec!["classifier", "pooler"]
        } else {
            vec!["classifier"]
        }
    }

    fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        for (path, linear) in self.trained() {
            tensors.insert(format!("{path}.weight"), in_file_order(&linear.weight.val().into_data()));
            if let Some(bias) = &linear.bias {
                tensors.insert(format!("{path}.bias"), bias.val().into_data());
            }
        }
        tensors
    }

    fn saved(&self, answer: &Answer) -> Result<Option<SavedHead>, Error> {
        let labels = match answer.classes.as_slice() {
            [] => vec!["LABEL_0".to_owned()],
            classes => classes.to_vec(),
        };
        // What transformers does not infer from the number of labels.
        let problem_type = match answer.task {
            Task::MultiLabel => Some("multi_label_classification"),
            Task::Regress if labels.len() > 1 => Some("regression"),
            _ => None,
        };
        if self.n_labels() != labels.len() {
            let found = format!("{} names for a head of {} labels", labels.len(), self.n_labels());
            let (field, expected) = ("labels".to_owned(), "a name for each".to_owned());
            return Err(Error::Config { field, found, expected });
        }
        let numbered = || labels.iter().enumerate();
        let by_id = numbered().map(|(i, name)| (i.to_string(), json!(name)));
        let by_name = numbered().map(|(i, name)| (name.clone(), json!(i)));
        let config = [
            ("architectures", Some(json!([self.family.classifier_architecture()]))),
            ("id2label", Some(Value::Object(by_id.collect()))),
            ("label2id", Some(Value::Object(by_name.collect()))),
            // What the base says is of its own head; the number follows from the names.
            ("num_labels", None),
            ("problem_type", problem_type.map(|kind| json!(kind))),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value)).into();
        Ok(Some(SavedHead { tensors: self.tensors(), replaces: HEAD, config }))
    }

    fn with_tensors(mut self, tensors: &Tensors, what: &str) -> Result<Self, Error> {
        let [dense, _] = paths(self.family);
        // Someone has trained it.
        if !self.trains_dense && tensors.contains_key(&format!("{dense}.weight")) {
            self = Self { dense: trained(self.dense), trains_dense: true, ..self };
        }
        let own = self.tensors().into_iter();
        let expected: Vec<_> = own.map(|(name, data)| (name, data.shape.to_vec(), None)).collect();
        let mismatches = mismatches(&expected, tensors);
        if !mismatches.is_empty() {
            return Err(Error::Mismatch { what: what.to_owned(), mismatches });
        }
        let [dense, out_proj] = paths(self.family);
        self.dense = replaced(self.dense, dense, tensors);
        self.out_proj = replaced(self.out_proj, out_proj, tensors);
        Ok(self)
    }
}

/// The layer with new values where `tensors` has some under its path.
fn replaced<B: Backend>(linear: Linear<B>, path: &str, tensors: &Tensors) -> Linear<B> {
    let value = |name: &str| tensors.get(&format!("{path}.{name}")).cloned();
    let Linear { mut weight, bias } = linear;
    if let Some(data) = value("weight") {
        weight = edit(weight, |old| Tensor::from_data(in_file_order(&data), (&old.device(), old.dtype())));
    }
    let bias = bias.map(|bias| match value("bias") {
        Some(data) => edit(bias, |old| Tensor::from_data(data, (&old.device(), old.dtype()))),
        None => bias,
    });
    Linear { weight, bias }
}

impl EncoderCheckpoint {
    /// A head of which an adapter has parts, or changes: the rest is this checkpoint's.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the checkpoint has no such rest, or another shape.
    pub(crate) fn whole_head(
        &self,
        mut tensors: Tensors,
        changes: &[(String, TensorData)],
        adapter: &Path,
    ) -> Result<Tensors, Error> {
        if tensors.is_empty() && changes.is_empty() {
            return Ok(tensors);
        }
        let mut mismatches = Vec::new();
        for (path, change) in changes {
            if tensors.contains_key(path) {
                mismatches.push(format!("{path}: saved as a whole, and a pair beside it"));
                continue;
            }
            match self.values(path).filter(|weight| weight.shape == change.shape) {
                Some(weight) => {
                    let sum = weight
                        .iter::<f32>()
                        .zip(change.iter::<f32>())
                        .map(|(weight, change)| weight + change);
                    tensors.insert(
                        path.clone(),
                        TensorData::new(sum.collect::<Vec<f32>>(), weight.shape.clone()),
                    );
                }
                None => mismatches
                    .push(format!("{path}: the model has none of {:?} to adapt", change.shape.as_slice())),
            }
        }
        let [dense, out] = paths(self.config.family);
        for path in [dense, out] {
            let names = ["weight", "bias"].map(|name| format!("{path}.{name}"));
            let is_out = path == out;
            let needed = is_out
                || self.config.family == EncoderFamily::Roberta
                || names.iter().any(|name| tensors.contains_key(name));
            for name in names.into_iter().filter(|_| needed) {
                if let Some(values) = self.values(&name).filter(|_| !tensors.contains_key(&name)) {
                    tensors.insert(name, values);
                }
            }
        }
        if mismatches.is_empty() {
            return Ok(tensors);
        }
        Err(Error::Mismatch { what: adapter.display().to_string(), mismatches })
    }
}
