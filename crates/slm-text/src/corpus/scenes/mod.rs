//! The scenes that a story chooses from.
//!
//! A scene tells one paragraph, or the rest of one, and returns a template that summarizes it and fits after "told his
//! mother about". The first word of a scene is a name, so that "Then" can precede it.

mod nature;
mod numbers;
mod people;
mod things;

use super::choices::Teller;
use super::world::{Weather, World};

type Tell = fn(&mut Teller<'_>, &mut World) -> String;

/// An event that a story can tell.
pub(super) struct Scene {
    /// Relative frequency.
    pub(super) weight: u32,
    needs: Option<Weather>,
    tell: Tell,
}

impl Scene {
    /// Returns `true` if the scene can happen in this world.
    pub(super) fn fits(&self, world: &World) -> bool {
        self.needs.is_none_or(|weather| weather == world.weather)
    }

    /// Tells the scene.
    pub(super) fn tell(&self, teller: &mut Teller<'_>, world: &mut World) -> String {
        (self.tell)(teller, world)
    }
}

const fn scene(weight: u32, tell: Tell) -> Scene {
    Scene { weight, needs: None, tell }
}

const fn outdoors(needs: Weather, tell: Tell) -> Scene {
    Scene { weight: 4, needs: Some(needs), tell }
}

/// All scenes. A story tells each at most once.
pub(super) const SCENES: &[Scene] = &[
    scene(4, numbers::gifts),
    scene(2, numbers::together),
    scene(2, numbers::fair_shares),
    scene(3, numbers::shop),
    scene(3, things::moved_away),
    scene(2, things::trade),
    scene(2, things::lend),
    scene(2, things::make),
    scene(3, nature::animal),
    scene(2, nature::garden),
    scene(2, nature::way_there_and_back),
    scene(2, people::hurt),
    scene(2, people::riddle),
    scene(2, people::tallest),
    scene(2, people::noise),
    scene(1, people::climb),
    scene(2, people::talk),
    scene(2, people::birthday),
    scene(2, numbers::clock),
    outdoors(Weather::Hot, nature::heat),
    outdoors(Weather::Windy, nature::wind),
    outdoors(Weather::Cloudy, nature::rain),
    outdoors(Weather::Cold, nature::snow),
    outdoors(Weather::Foggy, nature::fog),
];
