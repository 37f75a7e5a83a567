//! The command `sara` in a process of its own, in a directory with a small task.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::model::fixture;

/// A directory in which the command runs, with a backbone in `model`, data, and `run.toml`.
pub(crate) struct Workplace {
    dir: tempfile::TempDir,
}

/// What the command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Workplace {
    /// The built-in model and the first lines of its task.
    pub(crate) fn of_assets(train: usize, valid: usize) -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets"), [train, valid])
    }

    /// The built-in model that writes, and the first lines of its task.
    pub(crate) fn of_writer(train: usize, valid: usize) -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/writer"), [train, valid])
    }

    fn of(assets: &Path, [train, valid]: [usize; 2]) -> Self {
        let place = Self::empty();
        copy(&assets.join("model"), &place.path("model"));
        for (name, lines) in [("train.jsonl", train), ("valid.jsonl", valid)] {
            let text = std::fs::read_to_string(assets.join(name)).unwrap();
            place.write(name, &text.lines().take(lines).flat_map(|line| [line, "\n"]).collect::<String>());
        }
        place
    }

    /// The smallest fixture with named classes, and four lines of data.
    pub(crate) fn of_fixture(name: &str) -> Self {
        let place = Self::empty();
        copy(&fixture(name), &place.path("model"));
        let lines = [("good", "positive"), ("bad", "negative"), ("so so", "neutral"), ("fine", "positive")];
        let line = |(text, label)| format!("{}\n", serde_json::json!({"text": text, "label": label}));
        let text: String = lines.into_iter().map(line).collect();
        place.write("train.jsonl", &text);
        place.write("valid.jsonl", &text);
        place
    }

    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Writes `run.toml`: `method` is its table, `optimizer` the lines of that one.
    pub(crate) fn run_file(&self, method: &str, optimizer: &str) {
        let text = format!(
            "model = \"model\"\noutput = \"run\"\n{method}\n\
             [data]\ntrain = \"train.jsonl\"\nvalid = \"valid.jsonl\"\n[optimizer]\n{optimizer}\n"
        );
        self.write("run.toml", &text);
    }

    pub(crate) fn sara(&self, args: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sara"));
        command.args(args);
        self.run(command)
    }

    /// The command with this on its standard input, which must succeed.
    #[track_caller]
    pub(crate) fn sara_given(&self, args: &[&str], input: &str) -> Done {
        self.write("input", input);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sara"));
        command.args(args).stdin(std::fs::File::open(self.path("input")).unwrap());
        let done = self.run(command);
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        done
    }

    /// Runs any command here, on two threads of the CPU and with backtraces asked for.
    pub(crate) fn run(&self, mut command: Command) -> Done {
        command.current_dir(self.dir.path()).env("RUST_BACKTRACE", "1").env("RAYON_NUM_THREADS", "2");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// The command, which must succeed.
    #[track_caller]
    pub(crate) fn sara_ok(&self, args: &[&str]) -> Done {
        let done = self.sara(args);
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        done
    }

    /// The one object that the command prints with `--json`.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let done = self.sara_ok(&[args, &["--json"]].concat());
        assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// Names of everything in the directory, hidden files too.
    pub(crate) fn entries(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
