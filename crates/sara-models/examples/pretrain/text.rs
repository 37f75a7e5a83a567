//! The text of the built-in demo: an artificial world in plain English, from a grammar and word lists of our own.
//!
//! The world has animals in a fixed order of size. The corpus says which of two is larger, tells who did what to
//! whom in the active and in the passive voice, denies some of it, sometimes twice, and draws the conclusions; and it
//! chats about people, food and places. The task asks of one sentence whether the larger or the smaller animal is
//! the one that acts, and whether it did. No word and no pair of words gives that away: the sizes are never named,
//! the voice turns the order of the animals around and a second denial undoes the first.

use std::collections::HashSet;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// From the smallest to the largest.
const ANIMALS: [&str; 18] = [
    "ant", "bee", "snail", "mouse", "frog", "crow", "rabbit", "cat", "fox", "goat", "pig", "lion", "bear",
    "cow", "horse", "camel", "hippo", "elephant",
];
/// In the task, animals of about the same size do not meet.
const CLEAR_DIFFERENCE: usize = 3;
/// Verb and past tense, which is the participle too.
const ACTIONS: [(&str, &str); 16] = [
    ("chase", "chased"),
    ("follow", "followed"),
    ("watch", "watched"),
    ("help", "helped"),
    ("push", "pushed"),
    ("pull", "pulled"),
    ("touch", "touched"),
    ("greet", "greeted"),
    ("scare", "scared"),
    ("carry", "carried"),
    ("visit", "visited"),
    ("wash", "washed"),
    ("call", "called"),
    ("warn", "warned"),
    ("guard", "guarded"),
    ("thank", "thanked"),
];
/// None is about size.
const MOODS: [&str; 14] = [
    "hungry", "tired", "clever", "quiet", "brave", "lazy", "happy", "proud", "shy", "busy", "young", "old",
    "wild", "gentle",
];
const COLOURS: [&str; 8] = ["red", "green", "yellow", "blue", "white", "black", "brown", "grey"];
const PLACES: [&str; 18] = [
    "river", "forest", "garden", "market", "bridge", "hill", "lake", "village", "barn", "mill", "road",
    "field", "harbour", "tower", "cave", "school", "meadow", "station",
];
const NEAR: [&str; 5] = ["near", "behind", "beside", "beyond", "at"];
const TIMES: [&str; 8] = [
    "in the morning",
    "in the evening",
    "at the weekend",
    "before the storm",
    "after the rain",
    "during the night",
    "in late summer",
    "on a cold day",
];
const RESTS: [&str; 5] = ["slept", "waited", "rested", "sang", "played"];
const PEOPLE: [&str; 14] = [
    "farmer", "baker", "sailor", "teacher", "doctor", "painter", "miller", "tailor", "singer", "driver",
    "hunter", "gardener", "cook", "clerk",
];
/// Names, and the word for what is theirs.
const NAMES: [(&str, &str); 12] = [
    ("anna", "her"),
    ("clara", "her"),
    ("emma", "her"),
    ("lucy", "her"),
    ("mary", "her"),
    ("rosa", "her"),
    ("ben", "his"),
    ("david", "his"),
    ("henry", "his"),
    ("oscar", "his"),
    ("peter", "his"),
    ("tom", "his"),
];
/// One and many.
const FOODS: [(&str, &str); 12] = [
    ("apple", "apples"),
    ("pear", "pears"),
    ("plum", "plums"),
    ("cake", "cakes"),
    ("egg", "eggs"),
    ("carrot", "carrots"),
    ("onion", "onions"),
    ("bean", "beans"),
    ("nut", "nuts"),
    ("lemon", "lemons"),
    ("melon", "melons"),
    ("cheese", "cheeses"),
];
const THINGS: [&str; 16] = [
    "hat", "coat", "book", "lamp", "basket", "hammer", "rope", "ladder", "cup", "chair", "letter", "key",
    "clock", "drum", "kite", "boat",
];
const NUMBERS: [&str; 9] = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
const TRADES: [&str; 5] = ["sold", "gave", "offered", "showed", "brought"];
const LOSSES: [&str; 6] = ["lost", "found", "forgot", "cleaned", "repaired", "painted"];
const TASTES: [&str; 5] = ["sweet", "fresh", "ripe", "cheap", "bitter"];
/// What may stand before a statement without changing it.
const ASSERTIONS: [&str; 5] =
    ["it is true that", "we know that", "everyone says that", "it is clear that", "they remember that"];
const DENIALS: [&str; 4] = ["it is false that", "it is wrong that", "it is untrue that", "they deny that"];

/// The classes of the task.
pub(crate) const LABELS: [&str; 4] = ["larger_did", "smaller_did", "larger_did_not", "smaller_did_not"];

/// A sentence of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labelled {
    /// Lower-case words and punctuation, separated by spaces.
    pub(crate) text: String,
    /// One of [`LABELS`].
    pub(crate) label: &'static str,
}

/// Sentences to pretrain on; the same for the same seed.
pub(crate) fn corpus(seed: u64, sentences: usize) -> Vec<String> {
    let mut writer = Writer::new(seed);
    (0..sentences).map(|_| writer.sentence()).collect()
}

/// `n` different sentences, as many of each class as of any other (one more where `n` is not a multiple of 4).
///
/// Parts of one call share no sentence: take training and validation data from the same call.
pub(crate) fn task(seed: u64, n: usize) -> Vec<Labelled> {
    let mut writer = Writer::new(seed);
    let mut written = HashSet::new();
    let mut examples = Vec::with_capacity(n);
    while examples.len() < n {
        let wanted = LABELS[examples.len() % LABELS.len()];
        let event = writer.event(CLEAR_DIFFERENCE);
        if event.label() == wanted {
            let text = format!("{} {} .", writer.statement(&event), writer.circumstance());
            if written.insert(text.clone()) {
                examples.push(Labelled { text, label: wanted });
            }
        }
    }
    examples.shuffle(&mut writer.random);
    examples
}

/// Who did what to whom, and how it is told.
#[derive(Clone, Copy)]
struct Event {
    agent: usize,
    patient: usize,
    action: (&'static str, &'static str),
    is_passive: bool,
    /// "it is false that ..."
    is_denied: bool,
    /// "... did not ..."
    is_negated: bool,
}

impl Event {
    fn happened(&self) -> bool {
        self.is_denied == self.is_negated
    }

    fn label(&self) -> &'static str {
        LABELS[usize::from(self.agent < self.patient) + 2 * usize::from(!self.happened())]
    }

    /// The same fact in the active voice and without a detour.
    fn told_plainly(&self) -> Self {
        Self { is_passive: false, is_denied: false, is_negated: !self.happened(), ..*self }
    }
}

struct Writer {
    random: ChaCha8Rng,
}

impl Writer {
    fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.random.random_range(0..items.len())]
    }

    fn sentence(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..25 => self.comparison(),
            25..40 => self.retelling(),
            40..65 => self.conclusion(),
            65..75 => {
                let event = self.event(1);
                format!("{} {} .", self.statement(&event), self.circumstance())
            }
            75..85 => self.trade(),
            85..92 => self.stock(),
            _ => self.belonging(),
        }
    }

    /// Which of two animals is the larger.
    fn comparison(&mut self) -> String {
        let (larger, smaller) = self.larger_and_smaller(1);
        let (larger, smaller) = (ANIMALS[larger], ANIMALS[smaller]);
        let lead = self.pick(&ASSERTIONS);
        match self.random.random_range(0..6) {
            0 => format!("{lead} the {larger} is larger than the {smaller} ."),
            1 => format!("{lead} the {smaller} is smaller than the {larger} ."),
            2 => format!("the {larger} and the {smaller} met , and the {larger} was the larger one ."),
            3 => format!("the {smaller} and the {larger} met , and the {smaller} was the smaller one ."),
            4 => format!("the {smaller} is small , but beside it the {larger} is large ."),
            _ => format!("{lead} the {smaller} is not larger than the {larger} ."),
        }
    }

    /// One fact in two ways.
    fn retelling(&mut self) -> String {
        let event = self.event(1);
        let (first, plain) = (self.statement(&event), event.told_plainly());
        let other_voice = Event { is_passive: true, ..plain };
        let second = if self.random.random_bool(0.5) { plain } else { other_voice };
        format!("{first} , so {} .", clause(&second, &bare(second.agent), &bare(second.patient)))
    }

    /// A fact, and what it says about large and small.
    fn conclusion(&mut self) -> String {
        let event = self.event(1);
        let plain = event.told_plainly();
        let (agent, patient) = if event.agent > event.patient {
            ("the larger one", "the smaller one")
        } else {
            ("the smaller one", "the larger one")
        };
        format!("{} , so {} .", self.statement(&event), clause(&plain, agent, patient))
    }

    fn trade(&mut self) -> String {
        let (seller, buyer) = (self.pick(&PEOPLE), self.pick(&NAMES).0);
        let (food, trade, colour) = (self.pick(&FOODS).1, self.pick(&TRADES), self.pick(&COLOURS));
        let (number, place) = (self.pick(&NUMBERS), self.place());
        format!("the {seller} {trade} {number} {colour} {food} to {buyer} {place} .")
    }

    /// One is, many are.
    fn stock(&mut self) -> String {
        let (one, many) = self.pick(&FOODS);
        let (taste, place, person) = (self.pick(&TASTES), self.place(), self.pick(&PEOPLE));
        if self.random.random_bool(0.5) {
            format!("one {one} of the {person} {place} was {taste} .")
        } else {
            format!("{} {many} of the {person} {place} were {taste} .", self.pick(&NUMBERS))
        }
    }

    fn belonging(&mut self) -> String {
        let ((name, their), (loss, colour, thing)) =
            (self.pick(&NAMES), (self.pick(&LOSSES), self.pick(&COLOURS), self.pick(&THINGS)));
        format!("{name} {loss} {their} {colour} {thing} {} {} .", self.place(), self.pick(&TIMES))
    }

    fn event(&mut self, difference: usize) -> Event {
        let (larger, smaller) = self.larger_and_smaller(difference);
        let (agent, patient) =
            if self.random.random_bool(0.5) { (larger, smaller) } else { (smaller, larger) };
        // Three of eight happened, four did not, and one is denied twice.
        let (is_denied, is_negated) = self.pick(&[
            (false, false),
            (false, false),
            (false, false),
            (true, false),
            (true, false),
            (false, true),
            (false, true),
            (true, true),
        ]);
        let (action, is_passive) = (self.pick(&ACTIONS), self.random.random_bool(0.5));
        Event { agent, patient, action, is_passive, is_denied, is_negated }
    }

    fn larger_and_smaller(&mut self, difference: usize) -> (usize, usize) {
        let larger = self.random.random_range(difference..ANIMALS.len());
        (larger, self.random.random_range(0..=larger - difference))
    }

    fn statement(&mut self, event: &Event) -> String {
        let clause = clause(event, &self.animal(event.agent), &self.animal(event.patient));
        if event.is_denied {
            format!("{} {clause}", self.pick(&DENIALS))
        } else if self.random.random_bool(0.5) {
            format!("{} {clause}", self.pick(&ASSERTIONS))
        } else {
            clause
        }
    }

    fn animal(&mut self, animal: usize) -> String {
        match self.random.random_range(0..3) {
            0 => format!("the {} {}", self.pick(&MOODS), ANIMALS[animal]),
            1 => format!("the {} {}", self.pick(&COLOURS), ANIMALS[animal]),
            _ => bare(animal),
        }
    }

    /// When, where, or what someone else did meanwhile.
    fn circumstance(&mut self) -> String {
        match self.random.random_range(0..3) {
            0 => self.place(),
            1 => self.pick(&TIMES).to_owned(),
            _ => format!("while the {} {}", self.pick(&PEOPLE), self.pick(&RESTS)),
        }
    }

    fn place(&mut self) -> String {
        format!("{} the {}", self.pick(&NEAR), self.pick(&PLACES))
    }
}

fn bare(animal: usize) -> String {
    format!("the {}", ANIMALS[animal])
}

/// The event without its denial.
fn clause(event: &Event, agent: &str, patient: &str) -> String {
    let (verb, past) = event.action;
    match (event.is_passive, event.is_negated) {
        (false, false) => format!("{agent} {past} {patient}"),
        (false, true) => format!("{agent} did not {verb} {patient}"),
        (true, false) => format!("{patient} was {past} by {agent}"),
        (true, true) => format!("{patient} was not {past} by {agent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split(' ').filter(|word| word.chars().all(char::is_alphabetic)).count()
    }

    #[test]
    fn labels_follow_from_the_event() {
        let (ant, cow) = (0, 13);
        let event = Event {
            agent: ant,
            patient: cow,
            action: ACTIONS[0],
            is_passive: true,
            is_denied: true,
            is_negated: true,
        };
        assert_eq!(clause(&event, "the ant", "the cow"), "the cow was not chased by the ant");
        assert_eq!(event.label(), "smaller_did");
        assert_eq!(Event { is_denied: false, ..event }.label(), "smaller_did_not");
        assert_eq!(Event { agent: cow, patient: ant, ..event }.label(), "larger_did");
        assert_eq!(Event { agent: cow, patient: ant, is_negated: false, ..event }.label(), "larger_did_not");
    }

    #[test]
    fn classes_are_balanced() {
        let examples = task(0, 400);
        for label in LABELS {
            assert_eq!(examples.iter().filter(|example| example.label == label).count(), 100);
        }
        let first_half: Vec<_> =
            examples[..200].iter().filter(|example| example.label == LABELS[0]).collect();
        assert!((30..70).contains(&first_half.len()), "{} of 200: not shuffled", first_half.len());
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(task(3, 50), task(3, 50));
        assert_ne!(task(3, 50), task(4, 50));
        assert_eq!(corpus(3, 50), corpus(3, 50));
        assert_ne!(corpus(3, 50), corpus(4, 50));
    }

    #[test]
    fn no_sentence_is_in_the_task_twice() {
        let examples = task(0, 4000);
        let texts: HashSet<_> = examples.iter().map(|example| &example.text).collect();
        assert_eq!(texts.len(), examples.len());
    }

    #[test]
    fn texts_are_short_lower_case_and_evenly_spaced() {
        let tasks = task(1, 2000).into_iter().map(|example| example.text);
        for text in corpus(1, 5000).into_iter().chain(tasks) {
            assert!((8..=24).contains(&words(&text)), "{} words: {text}", words(&text));
            assert!(text.ends_with(" .") && !text.contains("  "), "{text}");
            assert!(text.chars().all(|letter| matches!(letter, 'a'..='z' | ' ' | ',' | '.')), "{text}");
        }
    }

    #[test]
    fn the_corpus_knows_every_word_of_the_task() {
        let corpus = corpus(0, 5000);
        let known: HashSet<&str> = corpus.iter().flat_map(|text| text.split(' ')).collect();
        assert!((200..320).contains(&known.len()), "{} words", known.len());
        for example in task(0, 2000) {
            assert!(example.text.split(' ').all(|word| known.contains(word)), "{}", example.text);
        }
    }
}
