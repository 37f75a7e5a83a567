//! Prints samples of the text that the built-in demo model is made from.
#![expect(clippy::print_stdout, reason = "the output is the point")]

mod text;

fn main() {
    for sentence in text::corpus(0, 20) {
        println!("{sentence}");
    }
    for text::Labelled { text, label } in text::task(0, 20) {
        println!("{label}\t{text}");
    }
}
