use std::collections::HashSet;

use proptest::prelude::*;

use super::words::{BOYS, COUNTED, GIRLS, number};
use super::*;

/// The stories on which the properties are checked.
fn sample() -> impl Iterator<Item = Story> {
    Corpus::new(5).take(3000)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn as_number(word: &str) -> Option<usize> {
    (1..=20).find(|&count| number(count) == word)
}

#[test]
fn no_slot_or_bracket_is_left() {
    for story in sample() {
        assert!(!story.text.contains(['{', '}', '[', ']', '|', '_']), "{}", story.text);
        assert!(story.text.is_ascii() && story.text.ends_with(".\n") && !story.text.ends_with("\n\n"));
    }
}

/// Texts that no story may contain: wrong spacing, punctuation or articles.
const WRONG: [&str; 18] = [
    "  ", " .", " ,", "..", ",.", " \n", "\n ", "\n\n", "?.", "!.", " a a", " a e", " a i", " a o", " a u",
    " an b", " an r", " and.",
];

#[test]
fn spacing_capitals_and_quotes_are_right() {
    for story in sample() {
        let text = &story.text;
        for wrong in WRONG {
            assert!(!text.contains(wrong), "{wrong:?} in {text}");
        }
        for line in text.lines() {
            assert_eq!(line.matches('"').count() % 2, 0, "{line}");
            assert!(line.starts_with(|first: char| first.is_ascii_uppercase()), "{line}");
            for (end, _) in line.match_indices(". ") {
                let next = line[end + 2..].trim_start_matches('"');
                assert!(next.starts_with(|first: char| first.is_ascii_uppercase()), "{line}");
            }
        }
    }
}

#[test]
fn one_is_singular_and_more_is_plural() {
    for story in sample() {
        let all: Vec<&str> = words(&story.text).collect();
        for pair in all.windows(2) {
            let Some(count) = as_number(&pair[0].to_lowercase()) else { continue };
            let thing = COUNTED.iter().find(|thing| pair[1] == thing.one || pair[1] == thing.many);
            if let Some(thing) = thing {
                assert_eq!(pair[1], if count == 1 { thing.one } else { thing.many }, "{}", story.text);
            }
        }
    }
}

#[test]
fn pronouns_agree_with_the_hero() {
    for story in sample() {
        let first = story.text.lines().next().unwrap();
        let hero = words(first).find(|word| GIRLS.contains(word) || BOYS.contains(word)).unwrap();
        let girl = GIRLS.contains(&hero);
        assert_eq!(first.contains(" girl"), girl, "{first}");
        assert_eq!(words(first).any(|word| word == "She" || word == "Her"), girl, "{first}");
        assert_eq!(words(first).any(|word| word == "He" || word == "His"), !girl, "{first}");
    }
}

#[test]
fn stories_differ_and_are_the_same_again() {
    let texts: Vec<String> = sample().map(|story| story.text).collect();
    let distinct: HashSet<&String> = texts.iter().collect();
    assert_eq!(distinct.len(), texts.len());
    assert_eq!(story(5, 1234).text, texts[1234]);
    assert_ne!(story(6, 0).text, texts[0]);
}

#[test]
fn a_corpus_does_not_change_by_accident() {
    // A change of this text changes every corpus. The shipped model must then be trained again.
    let story = story(0, 0);
    assert_eq!(story.text.lines().next(), Some(FIRST_LINE));
}
const FIRST_LINE: &str = "Once there was a greedy girl called Lily. She lived with her grandmother in a small purple cottage. \
    She loved catching crabs and pumpkin pie. She had a black ball that she loved very much.";

#[test]
fn entropy_is_known_and_the_summary_adds_up() {
    let mut file = Vec::new();
    let summary = Corpus::new(9).write(500, &mut file).unwrap();
    let text = String::from_utf8(file).unwrap();
    assert_eq!(summary.bytes as usize, text.len());
    assert_eq!(summary.stories, 500);
    assert_eq!(text, Corpus::new(9).text(500));
    assert_eq!(text.matches("\n<|endoftext|>\n").count(), 500);
    let nats: f64 = Corpus::new(9).take(500).map(|story| story.nats).sum();
    assert!((summary.nats - nats).abs() < 1e-6);
    println!(
        "{:.2} nats a story, {:.4} nats ({:.4} bits) a byte, {:.0} bytes a story",
        summary.nats_per_story(),
        summary.nats_per_byte(),
        summary.nats_per_byte() / std::f64::consts::LN_2,
        summary.bytes as f64 / 500.0,
    );
    // Far below the nats per byte of an untrained model, and far above zero.
    assert!((0.05..0.5).contains(&summary.nats_per_byte()));
}

proptest! {
    #[test]
    fn every_story_of_every_seed_is_well_formed(seed: u64, index: u64) {
        let story = story(seed, index);
        prop_assert!(story.nats.is_finite() && story.nats > 20.0);
        prop_assert!(story.choices > 15);
        prop_assert!((3..=6).contains(&story.text.lines().count()));
        prop_assert!((300..3000).contains(&story.text.len()), "{}", story.text.len());
        prop_assert!(!story.text.contains(END_OF_TEXT));
    }
}

/// Prints stories for reading: `cargo test -p slm-text read_some -- --nocapture`.
#[test]
fn read_some_stories() {
    for story in Corpus::new(1).take(6) {
        println!("{}({:.1} nats, {} choices)\n", story.text, story.nats, story.choices);
        assert!(story.text.lines().count() >= 3);
    }
}
