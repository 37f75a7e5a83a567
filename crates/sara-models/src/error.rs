//! What can go wrong in this crate.

use std::path::{Path, PathBuf};

/// The result of what can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, with its cause and its remedy, in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },

    /// Names, shapes or types of stored tensors differ from what is expected.
    #[error("{what}: {} tensors do not fit: {}", mismatches.len(), mismatches.join("; "))]
    Mismatch {
        /// The file or module.
        what: String,
        /// One entry for each tensor, with what was expected and what was found.
        mismatches: Vec<String>,
    },

    /// Neither the name nor the content of a data file tells a known format.
    #[error(
        "{}: unknown kind of data file; known are .jsonl, .json, .csv, .tsv, .parquet and .txt, and --format says which \
         it is",
        path.display()
    )]
    DataFormat {
        /// The data file.
        path: PathBuf,
    },

    /// A data file holds no example.
    #[error("{}: holds no examples; give at least one, one per line", path.display())]
    EmptyData {
        /// The data file.
        path: PathBuf,
    },

    /// The columns of a data file are not those that are read.
    #[error("{}: {problem}", path.display())]
    Columns {
        /// The data file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// No example of a file has a text.
    #[error("{}: none of its {examples} examples has a text", path.display())]
    NoTexts {
        /// The data file.
        path: PathBuf,
        /// How many examples it holds.
        examples: usize,
    },

    /// One line of a data file cannot be used.
    #[error("{}, line {line}: {problem}", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// No example of a file that should have labels has one.
    #[error(
        "{}: none of its {examples} examples has a label; add \"label\" to each line, or say which column it is \
         (data.label, --label){}",
        path.display(),
        notes.iter().flat_map(|note| ["; ", note]).collect::<String>()
    )]
    NoLabels {
        /// The data file.
        path: PathBuf,
        /// How many examples it holds.
        examples: usize,
        /// What was assumed in reading it.
        notes: Vec<String>,
    },

    /// Too few examples to keep some of them apart.
    #[error(
        "{}: of {examples} examples with text and label a share of {share} cannot be kept apart; give data.valid, or \
         another data.valid_share",
        path.display()
    )]
    NothingToKeepApart {
        /// The data file.
        path: PathBuf,
        /// Examples that can be used.
        examples: usize,
        /// The share asked for.
        share: f64,
    },

    /// All examples that are to define the classes belong to one class.
    #[error("{}: every label is `{class}`; a classifier needs examples of two classes or more", path.display())]
    OneClass {
        /// The data file.
        path: PathBuf,
        /// The only class.
        class: String,
    },

    /// A tokenizer cannot be read or failed on a text.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// The length limit leaves no token for the text.
    #[error(
        "max_tokens = {max_tokens} leaves no room for the text beside {special} special tokens; use {} or more",
        special + sequences
    )]
    MaxTokens {
        /// The limit asked for.
        max_tokens: usize,
        /// How many tokens the tokenizer adds.
        special: usize,
        /// How many texts make up one example: 1, or 2 for a pair.
        sequences: usize,
    },

    // ---- run file, optimizer ----
    /// A run file, or an override of it, does not hold what it should.
    #[error("{place}: {problem}")]
    Run {
        /// The file, with the line where it is known, or the override.
        place: String,
        /// What is wrong and what to do about it, in one line.
        problem: String,
    },

    /// A file that a run file names is not there.
    #[error(
        "{field} = {}: No such file or directory; relative paths count from the working directory, {}",
        path.display(),
        from.display()
    )]
    MissingPath {
        /// The key, with its table.
        field: &'static str,
        /// The path.
        path: PathBuf,
        /// The working directory.
        from: PathBuf,
    },

    /// A value of the run's configuration is out of its range.
    #[error("{field} = {found}: expected {expected}")]
    Config {
        /// The key, with its table.
        field: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },

    /// The stored state of an optimizer does not fit the parameters that are trained.
    #[error(
        "the optimizer's state does not fit ({}); resume with the run's own model and method",
        mismatches.join("; ")
    )]
    OptimizerState {
        /// One entry for each tensor, with what was expected and what was found.
        mismatches: Vec<String>,
    },
    // ---- checkpoints, model ----
    /// Adapters, or a file that has what the adapters' crate checks.
    #[error(transparent)]
    Core(#[from] sara_core::Error),

    /// Nothing in the adapter depends on the input.
    #[error("nothing in this adapter depends on the input; leave --collapse out")]
    NothingToCollapse,

    /// A batch that the model cannot take.
    #[error("{problem}")]
    Input {
        /// What is wrong and what to do about it.
        problem: String,
    },

    // ---- training ----
    /// There is nothing to train on or to measure.
    #[error("there are no examples; give at least one")]
    NoExamples,

    /// Examples that must say what the answer is do not.
    #[error("{}: {missing} of its {examples} examples have no answer to learn from or to compare with", path.display())]
    NoTargets {
        /// The data file.
        path: PathBuf,
        /// Examples without.
        missing: usize,
        /// All examples.
        examples: usize,
    },

    /// Examples have another number of values than the head has outputs.
    #[error("{}: an example has {found} values, and the head {n_labels} outputs; give as many", path.display())]
    OutputCount {
        /// The data file.
        path: PathBuf,
        /// Values of an example.
        found: usize,
        /// Outputs of the head.
        n_labels: usize,
    },

    /// Nothing is left to learn.
    #[error(
        "{}: none of its {examples} examples has a token that is learned within max_tokens = {max_tokens}; write longer \
         texts, or raise max_tokens",
        path.display()
    )]
    NothingTrained {
        /// The data file.
        path: PathBuf,
        /// Its rows.
        examples: usize,
        /// The limit.
        max_tokens: usize,
    },

    /// A conversation does not end with what is learned.
    #[error(
        "the conversation does not end with a turn of the assistant, of which something is learned; add one"
    )]
    NoAnswer,

    /// There is no chat template.
    #[error(
        "{}: has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), without which messages \
         are no text; write text, or prompt and completion, or add one",
        path.display()
    )]
    NoTemplate {
        /// The checkpoint's directory.
        path: PathBuf,
    },

    /// A chat template is none, or refuses a conversation.
    #[error("{}: the chat template {problem}", path.display())]
    Template {
        /// The file that it stands in.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// Texts cannot be ended.
    #[error("{}: names no eos_token, by which a text ends; add it to tokenizer_config.json", path.display())]
    NoEndOfText {
        /// The tokenizer's file.
        path: PathBuf,
    },

    /// A text might become longer than the model takes.
    #[error(
        "{prompt} tokens of prompt and {max_new_tokens} new ones are more than the context of {context}; shorten the prompt \
         or lower max-new-tokens"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens at most.
        max_new_tokens: usize,
        /// Tokens that the context takes.
        context: usize,
    },

    /// A class is beyond what the head answers.
    #[error(
        "class {class} has no logit in a head of {n_labels} labels; load the head for as many as there are"
    )]
    NoLogit {
        /// The class's index.
        class: usize,
        /// Labels of the head.
        n_labels: usize,
    },

    /// Parameters that are trained got no gradient.
    #[error(
        "no gradient reached {}: the adapter is not used by the model, or the method trains what the loss does not see",
        paths.join(", ")
    )]
    NoGradient {
        /// Paths of the parameters.
        paths: Vec<String>,
    },

    /// The loss or its gradients are not finite any more.
    #[error(
        "step {step}: the loss is {loss} and the norm of the gradients {gradient_norm} at a learning rate of \
         {learning_rate:e}; lower optimizer.learning_rate"
    )]
    NotFinite {
        /// The optimizer step, from 1.
        step: usize,
        /// Loss of the step.
        loss: f64,
        /// Norm of its gradients.
        gradient_norm: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },

    /// There is a run where a new one should go.
    #[error("{}: holds something already; choose another output, or go on with --resume", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },

    /// There is no run to go on with.
    #[error("{}: holds no run to resume; start it without --resume", path.display())]
    NothingToResume {
        /// The directory.
        path: PathBuf,
    },

    /// The run to resume was started otherwise.
    #[error(
        "{}: was started with `{was}`, and now it says `{is}`; resume with the run's own settings",
        path.display()
    )]
    OtherRun {
        /// The directory.
        path: PathBuf,
        /// The first line that differs, as it was.
        was: String,
        /// The same line now.
        is: String,
    },

    /// What the run to resume learns from is not what it was.
    #[error(
        "{}: the {what} have changed since the run was started; put them back to resume, or start another run",
        path.display()
    )]
    OtherInputs {
        /// The directory.
        path: PathBuf,
        /// What has changed.
        what: &'static str,
    },

    /// A run that is to be extended is not asked for more steps than it has.
    #[error(
        "{}: has {was} optimizer steps, and {is} are asked for; raise optimizer.epochs or optimizer.max_steps to extend \
         it",
        path.display()
    )]
    NothingToExtend {
        /// The directory.
        path: PathBuf,
        /// Steps of the run.
        was: usize,
        /// Steps asked for.
        is: usize,
    },

    /// An adapter was trained beside another base.
    #[error(
        "{}: was trained beside other weights than those of {} (its base was `{base}`); give that model, or --any-base \
         to use it all the same",
        adapter.display(),
        model.display()
    )]
    OtherBase {
        /// The adapter's directory.
        adapter: PathBuf,
        /// The model's directory.
        model: PathBuf,
        /// The name of the base in the adapter's files.
        base: String,
    },

    /// A PEFT adapter of a task that there is no head for.
    #[error("{}: was trained for task_type {task}, and only {} is read", path.display(), expected.join(" or "))]
    OtherTaskType {
        /// The adapter's directory.
        path: PathBuf,
        /// PEFT's name of the task.
        task: String,
        /// The tasks whose adapters fit this model.
        expected: &'static [&'static str],
    },

    /// The run file and the adapter to start from disagree.
    #[error(
        "init_adapter {} has {what} = {adapter}, and the run file says {run}; leave it out there to go on with the \
         adapter's, or start from another adapter",
        path.display()
    )]
    OtherAdapter {
        /// The adapter's directory.
        path: PathBuf,
        /// What they disagree about.
        what: String,
        /// What the adapter has.
        adapter: String,
        /// What the run file says.
        run: String,
    },

    /// An adapter was trained for a task that this program does not know.
    #[error("the adapter's task {task} is not known here ({problem}); use the version that wrote it")]
    UnknownTask {
        /// The task as `adapter.json` has it.
        task: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Neither the checkpoint nor an adapter has a head for a task.
    #[error("{}: has no classification head; give an --adapter that was trained with one", path.display())]
    NoHead {
        /// The model's directory.
        path: PathBuf,
    },
}

impl Error {
    /// An error of a file's content.
    pub fn format(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::Format { path: path.to_owned(), problem: problem.to_string() }
    }

    /// Turns what the system said about `path` into an [`Error::Io`]; for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
