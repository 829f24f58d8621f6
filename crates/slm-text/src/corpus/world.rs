//! State of a story: its characters and facts that must stay true.

use super::choices::Teller;
use super::template::Frame;
use super::words::{ANIMALS, Animal, BOYS, COUNTED, GIRLS, TOYS, TRAITS, Thing, Trait};

/// The weather of the day, which determines what can happen outdoors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Hot,
    Windy,
    Cloudy,
    Cold,
    Foggy,
}

impl Weather {
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::Hot, "hot"),
        (Self::Windy, "windy"),
        (Self::Cloudy, "cloudy"),
        (Self::Cold, "cold"),
        (Self::Foggy, "foggy"),
    ];
}

/// The state of a story. Words that may occur only once are taken from its lists.
pub(super) struct World {
    /// Slots: `a` is the hero, `b` the friend, `g` the hero's elder, each with `.they`, `.them`, `.their`.
    pub(super) frame: Frame,
    pub(super) character: Trait,
    pub(super) weather: Weather,
    /// True if the hero has a dearest thing, which the start and the end of the story mention.
    pub(super) treasure: bool,
    pub(super) girls: Vec<&'static str>,
    pub(super) boys: Vec<&'static str>,
    pub(super) things: Vec<Thing>,
    pub(super) toys: Vec<&'static str>,
    pub(super) animals: Vec<Animal>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            frame: Frame::default(),
            character: TRAITS[0],
            weather: Weather::Cloudy,
            treasure: false,
            girls: GIRLS.to_vec(),
            boys: BOYS.to_vec(),
            things: COUNTED.to_vec(),
            toys: TOYS.to_vec(),
            animals: ANIMALS.to_vec(),
        }
    }

    /// Fills the slots of a person: the name or word in `key`, and the pronouns.
    pub(super) fn bind(&mut self, key: &str, name: &str, she: bool) {
        let [kind, they, them, their] =
            if she { ["girl", "she", "her", "her"] } else { ["boy", "he", "him", "his"] };
        self.frame
            .set(key, name)
            .set(&format!("{key}.kind"), kind)
            .set(&format!("{key}.they"), they)
            .set(&format!("{key}.them"), them)
            .set(&format!("{key}.their"), their);
    }

    /// Makes the slots of `key` refer to the person of `other`.
    pub(super) fn alias(&mut self, key: &str, other: &str) {
        self.frame.copy(other, key);
    }

    /// Draws a child who is new to the story, and fills its slots.
    pub(super) fn child(&mut self, teller: &mut Teller<'_>, key: &str) {
        let she = teller.index(2) == 0;
        let name = teller.take(if she { &mut self.girls } else { &mut self.boys });
        self.bind(key, name, she);
    }

    /// Tells a template with the slots of this world.
    pub(super) fn say(&self, teller: &mut Teller<'_>, template: &str) {
        teller.say(&self.frame, template);
    }

    /// Tells a template without a space before it.
    pub(super) fn expand(&self, teller: &mut Teller<'_>, template: &str) {
        teller.expand(&self.frame, template);
    }
}
