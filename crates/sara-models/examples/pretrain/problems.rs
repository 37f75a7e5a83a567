//! The text of the built-in demo of models that write: numbers in plain English, from a grammar and word lists of our own.
//!
//! The corpus says what two numbers make, tells of people who have, give and lose things and of how many they have then,
//! asks and answers which of two numbers is larger, and chats. The task is a word problem of two steps, which no text of
//! the corpus is: its answer says what each step makes. All that a step needs is in the corpus, but not that a question
//! about a story is answered so.

use std::collections::HashSet;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];
const NAMES: [&str; 16] = [
    "anna", "clara", "emma", "lucy", "mary", "rosa", "nora", "alice", "ben", "david", "henry", "oscar",
    "peter", "tom", "paul", "leo",
];
/// One and many.
const THINGS: [(&str, &str); 18] = [
    ("apple", "apples"),
    ("pear", "pears"),
    ("plum", "plums"),
    ("cake", "cakes"),
    ("egg", "eggs"),
    ("carrot", "carrots"),
    ("onion", "onions"),
    ("nut", "nuts"),
    ("lemon", "lemons"),
    ("melon", "melons"),
    ("book", "books"),
    ("lamp", "lamps"),
    ("cup", "cups"),
    ("letter", "letters"),
    ("key", "keys"),
    ("kite", "kites"),
    ("stone", "stones"),
    ("coin", "coins"),
];
const COLOURS: [&str; 8] = ["red", "green", "yellow", "blue", "white", "black", "brown", "grey"];
const PLACES: [&str; 12] = [
    "river", "forest", "garden", "market", "bridge", "hill", "lake", "village", "barn", "mill", "field",
    "school",
];
/// What makes fewer, and more.
const LOSSES: [&str; 6] = ["loses", "sells", "breaks", "forgets", "hides", "drops"];
const GAINS: [&str; 5] = ["finds", "buys", "wins", "borrows", "makes"];
const TASTES: [&str; 6] = ["old", "new", "small", "large", "clean", "heavy"];

/// A word problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The story and the question.
    pub(crate) prompt: String,
    /// What each step makes.
    pub(crate) completion: String,
}

/// Sentences to pretrain on; the same for the same seed.
pub(crate) fn corpus(seed: u64, sentences: usize) -> Vec<String> {
    let mut writer = Writer { random: ChaCha8Rng::seed_from_u64(seed) };
    (0..sentences).map(|_| writer.text()).collect()
}

/// `n` different problems.
///
/// Parts of one call share none: take training and validation data from the same call.
pub(crate) fn problems(seed: u64, n: usize) -> Vec<Problem> {
    let mut writer = Writer { random: ChaCha8Rng::seed_from_u64(seed) };
    let mut written = HashSet::new();
    let mut problems = Vec::with_capacity(n);
    while problems.len() < n {
        let problem = writer.problem();
        if written.insert(problem.prompt.clone()) {
            problems.push(problem);
        }
    }
    problems
}

struct Writer {
    random: ChaCha8Rng,
}

impl Writer {
    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.random.random_range(0..items.len())]
    }

    fn two_names(&mut self) -> [&'static str; 2] {
        let mut names = NAMES;
        let (two, _) = names.partial_shuffle(&mut self.random, 2);
        [two[0], two[1]]
    }

    fn text(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..35 => self.fact(),
            35..70 => self.story(),
            70..80 => self.comparison(),
            80..90 => self.question(),
            _ => self.chat(),
        }
    }

    /// A change of a number that stays within those that have a name.
    fn change(&mut self, from: usize) -> i64 {
        let most = NUMBERS.len() - 1;
        loop {
            let to = self.random.random_range(0..=most);
            let change = to as i64 - from as i64;
            if change != 0 && change.abs() <= 9 {
                return change;
            }
        }
    }

    fn fact(&mut self) -> String {
        let from = self.random.random_range(0..NUMBERS.len());
        let change = self.change(from);
        if self.random.random_bool(0.8) {
            return format!("{} .", step(from, change));
        }
        let between = after(from, change);
        format!("{} , and {} .", step(from, change), step(between, self.change(between)))
    }

    /// Somebody has more or fewer than before.
    fn story(&mut self) -> String {
        let ([name, other], things) = (self.two_names(), self.pick(&THINGS).1);
        let from = self.random.random_range(0..NUMBERS.len());
        let change = self.change(from);
        let event = self.event(name, other, things, change);
        let now = after(from, change);
        let place = if self.random.random_bool(0.3) {
            format!(" in the {}", self.pick(&PLACES))
        } else {
            String::new()
        };
        // Why, or that alone.
        let so = if self.random.random_bool(0.5) {
            format!("{} , so ", step(from, change))
        } else {
            String::new()
        };
        format!(
            "{name} has {} {things}{place} . {event} . {so}now {name} has {} {things} .",
            NUMBERS[from], NUMBERS[now]
        )
    }

    fn event(&mut self, name: &str, other: &str, things: &str, change: i64) -> String {
        let number = NUMBERS[change.unsigned_abs() as usize];
        let is_given = self.random.random_bool(0.5);
        match (change > 0, is_given) {
            (true, true) => format!("{other} gives {name} {number} {things}"),
            (true, false) => format!("{name} {} {number} {things}", self.pick(&GAINS)),
            (false, true) => format!("{name} gives {other} {number} {things}"),
            (false, false) => format!("{name} {} {number} {things}", self.pick(&LOSSES)),
        }
    }

    fn comparison(&mut self) -> String {
        let ([name, other], things) = (self.two_names(), self.pick(&THINGS).1);
        let [a, b] = self.two_numbers();
        let word = if a > b { "more" } else { "fewer" };
        format!(
            "{name} has {} {things} and {other} has {} {things} . {name} has {word} than {other} .",
            NUMBERS[a], NUMBERS[b]
        )
    }

    /// The form of a question, and of its answer.
    fn question(&mut self) -> String {
        let [a, b] = self.two_numbers();
        match self.random.random_range(0..3) {
            0 => {
                let (larger, answer) = (self.pick(&["larger", "smaller"]), NUMBERS);
                let chosen = if (larger == "larger") == (a > b) { a } else { b };
                format!(
                    "question : which is {larger} , {} or {} ? answer : {} .",
                    answer[a], answer[b], answer[chosen]
                )
            }
            1 => {
                let (name, thing, colour) = (self.pick(&NAMES), self.pick(&THINGS).0, self.pick(&COLOURS));
                format!(
                    "{name} has one {colour} {thing} . question : how is the {thing} ? answer : {colour} ."
                )
            }
            _ => {
                let (name, things) = (self.pick(&NAMES), self.pick(&THINGS).1);
                let number = NUMBERS[a];
                format!(
                    "{name} has {number} {things} . question : how many {things} has {name} ? answer : {number} ."
                )
            }
        }
    }

    fn chat(&mut self) -> String {
        let (name, place) = (self.pick(&NAMES), self.pick(&PLACES));
        let ((one, many), colour, kind) = (self.pick(&THINGS), self.pick(&COLOURS), self.pick(&TASTES));
        match self.random.random_range(0..3) {
            0 => format!("the {colour} {one} in the {place} is {kind} ."),
            1 => format!("the {many} of {name} are {kind} and {colour} ."),
            _ => format!("then {name} looks for a {kind} {one} in the {place} ."),
        }
    }

    fn two_numbers(&mut self) -> [usize; 2] {
        let a = self.random.random_range(0..NUMBERS.len());
        let b = (a + self.random.random_range(1..NUMBERS.len())) % NUMBERS.len();
        [a, b]
    }

    fn problem(&mut self) -> Problem {
        let ([name, other], things) = (self.two_names(), self.pick(&THINGS).1);
        let from = self.random.random_range(1..NUMBERS.len());
        let first = self.change(from);
        let between = after(from, first);
        let second = self.change(between);
        let events = [first, second].map(|change| self.event(name, other, things, change));
        let prompt = format!(
            "{name} has {} {things} . {} . then {} . question : how many {things} has {name} ? answer :",
            NUMBERS[from], events[0], events[1]
        );
        let completion = format!(" {} , and {} .", step(from, first), step(between, second));
        Problem { prompt, completion }
    }
}

fn after(from: usize, change: i64) -> usize {
    from.saturating_add_signed(change as isize)
}

/// What a number and a change make.
fn step(from: usize, change: i64) -> String {
    let (word, verb) = if change > 0 { ("and", "make") } else { ("less", "is") };
    let [a, b, c] = [from, change.unsigned_abs() as usize, after(from, change)].map(|number| NUMBERS[number]);
    format!("{a} {word} {b} {verb} {c}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that a word stands for.
    fn value(word: &str) -> Option<i64> {
        NUMBERS.iter().position(|&number| number == word).map(|value| value as i64)
    }

    /// Whether "seven less two is five" is so.
    fn holds(step: &str) -> bool {
        let [a, word, b, _, c] = step.split(' ').collect::<Vec<_>>()[..] else { return false };
        let (Some(a), Some(b), Some(c)) = (value(a), value(b), value(c)) else { return false };
        c == if word == "and" { a + b } else { a - b }
    }

    #[test]
    fn what_the_steps_make_is_so() {
        for problem in problems(5, 500) {
            let steps = problem.completion.trim().trim_end_matches(" .").split(" , and ").collect::<Vec<_>>();
            assert!(steps.len() == 2 && steps.iter().all(|step| holds(step)), "{problem:?}");
            let (first, second) = (steps[0], steps[1]);
            assert_eq!(first.rsplit(' ').next(), second.split(' ').next(), "{problem:?}");
            assert!(
                problem.prompt.contains(&format!("has {} ", first.split(' ').next().unwrap_or_default()))
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(problems(3, 50), problems(3, 50));
        assert_ne!(problems(3, 50), problems(4, 50));
        assert_eq!(corpus(3, 50), corpus(3, 50));
        assert_ne!(corpus(3, 50), corpus(4, 50));
    }

    #[test]
    fn no_problem_is_there_twice_and_the_corpus_has_none() {
        let all = problems(0, 3000);
        let prompts: HashSet<_> = all.iter().map(|problem| &problem.prompt).collect();
        assert_eq!(prompts.len(), all.len());
        let corpus = corpus(0, 20_000);
        assert!(corpus.iter().all(|text| !(text.contains("how many") && text.contains("then"))));
        let known: HashSet<&str> = corpus.iter().flat_map(|text| text.split(' ')).collect();
        assert!((100..200).contains(&known.len()), "{} words", known.len());
        let words = |problem: &Problem| format!("{}{}", problem.prompt, problem.completion);
        assert!(all.iter().all(|problem| words(problem).split(' ').all(|word| known.contains(word))));
    }
}
