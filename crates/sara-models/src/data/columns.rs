//! Which columns of a file hold the text, its pair and the label.

use serde_json::Value;

use super::labels::{labels, labels_of_columns};
use super::rows::{Line, Lines, Row, Rows};
use super::{Example, Examples, LISTED, Label, Task, listed};
use crate::error::{Error, Result};

/// Names of the columns that are read; `text`, `text_pair` and `label` where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct Columns {
    /// Name of the column with the text.
    #[cfg_attr(feature = "cli", arg(long, value_name = "COLUMN"))]
    pub text: Option<String>,
    /// Name of the column with the second text.
    #[cfg_attr(feature = "cli", arg(long, value_name = "COLUMN"))]
    pub text_pair: Option<String>,
    /// Name of the column with the label.
    #[cfg_attr(feature = "cli", arg(long, value_name = "COLUMN"))]
    pub label: Option<String>,
    /// Names of columns in its place, between commas: of 0 and 1 for each of several labels, of numbers for each output.
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "COLUMNS", value_delimiter = ',', conflicts_with = "label")
    )]
    pub labels: Option<Vec<String>>,
    /// What stands between the names of several labels in one field; `|` by default.
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT", conflicts_with = "labels"))]
    pub label_separator: Option<String>,
}

impl Columns {
    /// What stands between the names of several labels in one field.
    pub fn separator(&self) -> &str {
        self.label_separator.as_deref().unwrap_or("|")
    }
}

/// Places of the columns in a file.
#[derive(Debug)]
struct Places {
    text: usize,
    text_pair: Option<usize>,
    label: Option<usize>,
    labels: Vec<usize>,
}

impl Rows {
    /// The examples in these columns, with labels for `task`, or without looking at labels.
    ///
    /// A blank field is no text, no second text and no label. Columns that are not used are named in a note.
    ///
    /// # Errors
    /// [`Error::Columns`] where a column is not there or its name fits several, [`Error::Data`] for the first field that
    /// cannot be used.
    pub fn examples(&self, columns: &Columns, task: Option<Task>) -> Result<Examples> {
        let wrong = |problem| Error::Columns { path: self.path.clone(), problem };
        let places = self.places(columns, task).map_err(wrong)?;
        let mut notes = self.notes.clone();
        notes.extend(self.left_out(&places));
        let mut list = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let example = example(row, &self.columns, &places);
            list.push(example.map_err(|problem| self.problem(row.line, problem))?);
        }
        if let Some(task) = task {
            let read = self.labels(columns, &places, task);
            let (labels, more) = read.map_err(|(line, problem)| self.problem(line, problem))?;
            for (example, label) in list.iter_mut().zip(labels) {
                example.label = label;
            }
            notes.extend(more);
        }
        let label_columns = places.labels.iter().map(|&place| self.name(place).to_owned()).collect();
        Ok(Examples { path: self.path.clone(), list, notes, label_columns })
    }

    /// The label of each row, and what was assumed.
    fn labels(
        &self,
        columns: &Columns,
        places: &Places,
        task: Task,
    ) -> Lines<(Vec<Option<Label>>, Vec<String>)> {
        let column = |place: &usize| -> Vec<(usize, &Value)> {
            self.rows.iter().map(|row| (row.line, &row.fields[*place])).collect()
        };
        match (places.label, places.labels.as_slice()) {
            (None, []) => Ok((vec![None; self.rows.len()], Vec::new())),
            (Some(place), []) => labels(&column(&place), task, columns.separator()),
            (_, several) => {
                let names: Vec<&str> = several.iter().map(|&place| self.name(place)).collect();
                let columns: Vec<_> = several.iter().map(column).collect();
                Ok((labels_of_columns(&names, &columns, task)?, Vec::new()))
            }
        }
    }

    /// The name of a column without the spaces around it.
    fn name(&self, place: usize) -> &str {
        self.columns[place].trim()
    }

    fn problem(&self, line: usize, problem: String) -> Error {
        Error::Data { path: self.path.clone(), line, problem }
    }

    fn places(&self, columns: &Columns, task: Option<Task>) -> Line<Places> {
        let Columns { text, text_pair, label, labels, .. } = columns;
        let Some(text) = self.place("text", text.as_deref())? else {
            let names = listed(self.columns.iter().map(String::as_str), LISTED);
            return Err(format!(
                "has no column `text`; its columns are {names}; say which holds the text: \
                 data.text = \"NAME\" in a run file, --text NAME elsewhere"
            ));
        };
        let text_pair = self.place("text_pair", text_pair.as_deref())?;
        let Some(labels) = labels else {
            let mut place = self.place("label", label.as_deref())?;
            if place.is_none() && task == Some(Task::MultiLabel) {
                place = self.place("labels", None)?;
            }
            return Ok(Places { text, text_pair, label: place, labels: Vec::new() });
        };
        if task == Some(Task::Classify) {
            return Err(
                "has a single column of labels for classify; columns of their own are for the tasks \
                        multi-label and regress"
                    .to_owned(),
            );
        }
        let mut several = Vec::new();
        for name in labels {
            let place = self.place("labels", Some(name))?;
            if let Some(twice) = place.filter(|place| several.contains(place)) {
                return Err(format!("has one column `{}`, and the labels name it twice", self.name(twice)));
            }
            several.extend(place);
        }
        Ok(Places { text, text_pair, label: None, labels: several })
    }

    /// The place of the column that is `asked` for, or of the one called `usual`; a name that is the same but for case
    /// and spaces will do where it is the only one.
    fn place(&self, usual: &str, asked: Option<&str>) -> Line<Option<usize>> {
        let name = asked.unwrap_or(usual);
        let plain =
            |name: &str| name.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').to_lowercase();
        let places = |is_it: &dyn Fn(&str) -> bool| -> Vec<usize> {
            let found = self.columns.iter().enumerate().filter(|(_, column)| is_it(column));
            found.map(|(place, _)| place).collect()
        };
        let exact = places(&|column| column == name);
        let found = if exact.is_empty() { places(&|column| plain(column) == plain(name)) } else { exact };
        let names = |places: &[usize]| {
            let names: Vec<&str> = places.iter().map(|&place| self.columns[place].as_str()).collect();
            listed(names.into_iter(), LISTED)
        };
        match (found.as_slice(), asked) {
            ([place], _) => Ok(Some(*place)),
            ([], None) => Ok(None),
            ([], Some(name)) => {
                let all = listed(self.columns.iter().map(String::as_str), LISTED);
                Err(format!("has no column `{name}` to read as {usual}; its columns are {all}"))
            }
            (several, _) => Err(format!(
                "has {} columns for {usual}: {}; rename all but one of them, or name another one",
                several.len(),
                names(several)
            )),
        }
    }

    /// A note of the columns that nothing is read from; a column without a name and without fields is not worth one.
    fn left_out(&self, places: &Places) -> Option<String> {
        let Places { text, text_pair, label, labels } = places;
        let used = [Some(*text), *text_pair, *label];
        let is_empty = |place: usize| {
            self.columns[place].trim().is_empty()
                && self.rows.iter().all(|row| row.fields[place].as_str().is_some_and(str::is_empty))
        };
        let names: Vec<&str> = (0..self.columns.len())
            .filter(|&place| !used.contains(&Some(place)) && !labels.contains(&place) && !is_empty(place))
            .map(|place| match self.columns[place].as_str() {
                "" => "(without a name)",
                name => name,
            })
            .collect();
        (!names.is_empty()).then(|| format!("columns left out: {}", listed(names.into_iter(), LISTED)))
    }
}

fn example(row: &Row, columns: &[String], places: &Places) -> Line<Example> {
    let string = |place: usize| match &row.fields[place] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        other => Err(format!("`{}` is {other}; write it as a string", columns[place])),
    };
    let text = string(places.text)?.unwrap_or_default();
    let text_pair = places.text_pair.map(string).transpose()?.flatten();
    Ok(Example { text, text_pair, label: None, line: row.line })
}
