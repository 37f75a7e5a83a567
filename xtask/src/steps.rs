//! Runs the steps of a task one after another and says at the end how each went.

use std::{
    env,
    ffi::OsStr,
    fmt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A task in steps: each runs, even where one before it failed, so that one call shows everything.
pub(crate) struct Steps {
    task: &'static str,
    rows: Vec<(String, Outcome)>,
}

enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(time) => write!(f, "{:>6.1} s  passed", time.as_secs_f64()),
            Self::Failed(time) => write!(f, "{:>6.1} s  FAILED", time.as_secs_f64()),
            Self::NotRun(why) => write!(f, "       -  not run: {why}"),
        }
    }
}

impl Steps {
    pub(crate) fn new(task: &'static str) -> Self {
        Self { task, rows: Vec::new() }
    }

    /// A step that is one command and passes when the command does.
    pub(crate) fn command(&mut self, name: &str, mut command: Command) {
        let rerun = shell_line(&command);
        self.check(name, &rerun, || if run(&mut command)? { Ok(()) } else { bail!("see above") });
    }

    /// A step in code; `rerun` is the command line that repeats it alone.
    pub(crate) fn check(&mut self, name: &str, rerun: &str, check: impl FnOnce() -> Result<()>) {
        println!("\n{}: {name}", self.task);
        let start = Instant::now();
        let result = check();
        let time = start.elapsed();
        self.rows.push((
            name.to_owned(),
            match result {
                Ok(()) => Outcome::Passed(time),
                Err(error) => {
                    eprintln!("{}: {name} failed: {error:#}; rerun: {rerun}", self.task);
                    Outcome::Failed(time)
                }
            },
        ));
    }

    /// A step that this machine cannot run.
    pub(crate) fn not_run(&mut self, name: &str, why: &str) {
        self.rows.push((name.to_owned(), Outcome::NotRun(why.to_owned())));
    }

    /// Prints the table of steps; an error where one failed.
    pub(crate) fn finish(self) -> Result<()> {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        println!("\n{}:", self.task);
        for (name, outcome) in &self.rows {
            println!("  {name:width$}  {outcome}");
        }
        let is_failed = |(_, outcome): &&(String, Outcome)| matches!(outcome, Outcome::Failed(_));
        match self.rows.iter().filter(is_failed).count() {
            0 => Ok(()),
            failed => bail!("{failed} of {} steps failed", self.rows.len()),
        }
    }
}

/// The cargo that runs this task, in the workspace's directory.
pub(crate) fn cargo<const N: usize>(root: &Path, args: [&str; N]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(args);
    command
}

/// Runs `command` in this terminal; whether it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {}", shell_line(command)))?;
    Ok(status.success())
}

/// Standard output of `command`, which must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", shell_line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shell_line(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", shell_line(command)))
}

/// `command` as one would type it.
fn shell_line(command: &Command) -> String {
    let quoted = |text: &OsStr| {
        let text = text.to_string_lossy();
        if text.is_empty() || text.contains([' ', '$', '"', '(', '|', '*']) {
            format!("'{text}'")
        } else {
            text.into_owned()
        }
    };
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}
