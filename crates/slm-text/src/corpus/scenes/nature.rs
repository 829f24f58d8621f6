//! Scenes with animals, plants, roads and weather.

use super::super::choices::Teller;
use super::super::words::{COLORS, DAYS, LANDMARKS, a};
use super::super::world::World;

/// An animal is heard, seen, fed, and goes home.
pub(super) fn animal(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [heard|and {b} heard] [something|a sound] [behind a bush|in the grass]. \"");
    let animal = teller.take(&mut world.animals);
    world.frame.set("sound", animal.sound).set("food", animal.food).set("home", animal.home);
    world.expand(teller, "{Sound}!\" It was a ");
    let color = *teller.pick(&COLORS[..8]);
    let beast = format!("{color} {}", animal.name);
    world.frame.set("beast", &beast).set("animal", animal.name);
    world.expand(teller, "{beast}.");
    match teller.index(3) {
        0 => world.say(
            teller,
            "It was hungry, so {a} gave it some {food}. \"{Sound},\" said the {animal}, and that meant thank you.",
        ),
        1 => world.say(
            teller,
            "It had lost its way. \"A {animal} lives {home},\" said {b}, so they took it there.",
        ),
        _ => world.say(
            teller,
            "It was afraid of {b}, so {b.they} [sat down|stood still] and waited. At last the {animal} came and ate \
             [{food}|some {food}] from {b.their} hand.",
        ),
    }
    format!("the {beast}")
}

/// A seed, and the days of the week in order.
pub(super) fn garden(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [found a seed|was given a seed].");
    let first = teller.index(DAYS.len());
    for (key, day) in [("d1", first), ("d2", first + 1), ("d3", first + 2), ("d4", first + 3)] {
        world.frame.set(key, DAYS[day % DAYS.len()]);
    }
    world.say(
        teller,
        "On {d1} {a.they} put it in the ground. On {d2} {a.they} watered it. On {d3} the [sun shone|rain fell] all day.",
    );
    world.say(teller, "On {d4} a [tiny|little] [green leaf|plant] came up, and {b} [clapped {b.their} hands|could not believe it].");
    "the seed".to_owned()
}

/// A way with three landmarks, and back in reverse.
pub(super) fn way_there_and_back(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [knew|looked for|remembered] the way to ");
    world.child(teller, "c");
    world.expand(teller, "{c}'s house. They went ");
    let mut landmarks = LANDMARKS.to_vec();
    for (key, before) in [("x", ""), ("y", ", "), ("z", " and ")] {
        teller.write(before);
        let landmark = teller.take(&mut landmarks);
        world.frame.set(key, if landmark == "up the hill" { "down the hill" } else { landmark });
        teller.write(landmark);
    }
    world.expand(
        teller,
        ". {c} [was glad to see them|gave them tea|showed them a book]. On the way back they went {z}, {y} and {x}.",
    );
    "the long walk".to_owned()
}

/// Heat makes thirst.
pub(super) fn heat(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(
        teller,
        "{a} and {b} played in the sun until they were [hot and thirsty|very thirsty]. There was no [shade|water] \
         anywhere. [Then|At last] {b} found [a well|a spring|a cold stream]. They drank and drank, and {a} \
         [put {a.their} feet in the water|splashed {b} with water].",
    );
    "the cold water".to_owned()
}

/// Wind takes a thing away, and something stops it.
pub(super) fn wind(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} held on to {a.their} ");
    let color = *teller.pick(&COLORS);
    let garment = *teller.pick(&["cap", "hood", "shawl"]);
    teller.write(color);
    teller.write(" ");
    teller.write(garment);
    world.expand(
        teller,
        ", but the wind was too strong and blew it away. They ran after it. It was caught in [a tree|a bush|a fence], \
         and {b} climbed up to get it. \"Thank you,\" said {a}, and {a.they} tied it on with a string.",
    );
    format!("the wind and {{a.their}} {color} {garment}")
}

/// Rain makes wet, and wet needs drying.
pub(super) fn rain(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(
        teller,
        "{a} felt a drop on {a.their} [nose|hand|head]. Soon it began to rain. They ran [under a tree|into a barn|\
         under a roof], but their clothes were [wet|dripping]. They waited until the rain stopped and [made a fire to \
         get dry|sat in the sun to get dry]. \"Look, a rainbow!\" said {b}.",
    );
    "the rain and the rainbow".to_owned()
}

/// Cold makes snow, and snow makes cold fingers.
pub(super) fn snow(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(
        teller,
        "{a} saw that it was snowing. {A.they} and {b} built a snowman with a [carrot|stick] for a nose and [stones|\
         buttons] for eyes. Their fingers grew cold, so they [put on their mittens|blew on them]. \"He looks cold \
         too,\" said {b}, and gave the snowman {b.their} [scarf|hat].",
    );
    "the snowman".to_owned()
}

/// Fog hides the way, and a sound shows it.
pub(super) fn fog(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(
        teller,
        "{a} could not see {b} in the fog. \"Where are you?\" {a.they} called. \"I am here!\" answered {b}. They held \
         hands and walked slowly. Then they heard [a bell|a drum|a song] and followed the sound until they came to",
    );
    teller.write(" ");
    let color = *teller.pick(&COLORS);
    world.frame.set("color", a(color));
    world.expand(teller, "{color} [gate|door|wall] that they knew.");
    "the fog".to_owned()
}
