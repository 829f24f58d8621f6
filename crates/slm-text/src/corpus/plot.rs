//! The plot of a story: an opening, one to three scenes, and an end that refers to them.

use super::choices::Teller;
use super::scenes::{SCENES, Scene};
use super::words::{ANIMALS, COLORS, DISHES, ELDERS, JOBS, PASTIMES, PLACES, SIGHTS, SIZES, TRAITS};
use super::world::{Weather, World};

/// Tells a whole story.
pub(super) fn tell(teller: &mut Teller<'_>) {
    let mut world = World::new();
    opening(teller, &mut world);
    let mut scenes: Vec<&Scene> = SCENES.iter().filter(|scene| scene.fits(&world)).collect();
    let count = 1 + teller.weighted(&[3, 5, 2]);
    let mut memories = Vec::with_capacity(count);
    for position in 0..count {
        let weights: Vec<u32> = scenes.iter().map(|scene| scene.weight).collect();
        let scene = scenes.remove(teller.weighted(&weights));
        if position > 0 {
            world.say(teller, "[Then|After that,|Later,|A little later,|]");
        }
        memories.push(scene.tell(teller, &mut world));
        if teller.once_in(1) {
            moment(teller, &world);
        }
        teller.paragraph();
    }
    ending(teller, &mut world, &memories);
}

fn opening(teller: &mut Teller<'_>, world: &mut World) {
    match teller.weighted(&[2, 1]) {
        0 => {
            world.say(teller, "[Once there was|There once was|Once upon a time there was] a ");
            world.character = *teller.pick(&TRAITS);
            teller.write(world.character.name);
            world.child(teller, "a");
            world.expand(teller, " {a.kind} [named|called] {a}.");
        }
        _ => {
            world.child(teller, "a");
            world.say(teller, "{a} was a ");
            world.character = *teller.pick(&TRAITS);
            teller.write(world.character.name);
            world.expand(teller, " {a.kind}.");
        }
    }
    let (elder, she) = *teller.pick(&ELDERS);
    world.bind("g", elder, she);
    if teller.once_in(1) {
        world.say(teller, "{A.they} lived with {a.their} {g} in a ");
        let size = *teller.pick(&SIZES);
        teller.write(size);
        teller.write(" ");
        let color = *teller.pick(&COLORS);
        teller.write(color);
        world.expand(teller, " [house|cottage|hut].");
    } else {
        world.say(teller, "{A.their} {g} [often said, \"Be good and be home for dinner.\"|told {a.them} a story every night.]");
    }
    world.say(teller, "{A.they} [liked|loved] ");
    let pastime = *teller.pick(&PASTIMES);
    teller.write(pastime);
    teller.write(" and ");
    let dish = *teller.pick(&DISHES);
    world.frame.set("pastime", pastime).set("dish", dish);
    teller.write(dish);
    teller.write(".");
    if teller.once_in(1) {
        world.say(teller, "{A.they} had a ");
        let color = *teller.pick(&COLORS);
        teller.write(color);
        let toy = teller.take(&mut world.toys);
        world.treasure = true;
        world.frame.set("treasure", format!("{color} {toy}"));
        world.expand(teller, &format!(" {toy} that {{a.they}} [loved very much|took everywhere]."));
    }
    teller.paragraph();
    world.say(teller, "One ");
    let (weather, name) = *teller.pick(&Weather::ALL);
    world.weather = weather;
    teller.write(name);
    world.expand(teller, " [morning|afternoon|day], {a} went to the ");
    let place = teller.index(PLACES.len());
    teller.write(PLACES[place]);
    world.child(teller, "b");
    world.expand(teller, " with {a.their} friend {b}.");
    if teller.once_in(1) {
        world.say(teller, "They saw ");
        let mut sights = SIGHTS[place].to_vec();
        for after in [" and ", "."] {
            let sight = teller.take(&mut sights);
            teller.write(sight);
            teller.write(after);
        }
    }
}

/// Tells a small event between scenes.
fn moment(teller: &mut Teller<'_>, world: &World) {
    match teller.index(6) {
        0 => {
            world.say(teller, "[A cloud|A stone|A shadow] looked like a ");
            let animal = *teller.pick(&ANIMALS);
            teller.write(animal.name);
            teller.write(".");
        }
        1 => {
            world.say(teller, "{b} told a [story|joke] about a ");
            let animal = *teller.pick(&ANIMALS);
            teller.write(animal.name);
            teller.write(" and a ");
            let (job, _) = *teller.pick(&JOBS);
            teller.write(job);
            teller.write(".");
        }
        2 => {
            world.say(teller, "They [rested|sat down] and ate ");
            let dish = *teller.pick(&DISHES);
            teller.write(dish);
            world.expand(teller, " that {a}'s {g} had made.");
        }
        3 => {
            world.say(teller, "{b} said that {b.they} liked ");
            let pastime = *teller.pick(&PASTIMES);
            teller.write(pastime);
            world.expand(
                teller,
                if world.frame.get("pastime") == Some(pastime) { ". \"So do I,\" said {a}." } else { "." },
            );
        }
        4 => {
            world.say(teller, "A ");
            let color = *teller.pick(&COLORS);
            teller.write(color);
            world.expand(teller, " [bird|butterfly|dragonfly] [flew past|sat down on {b}'s shoulder|followed them].");
        }
        _ => world.say(
            teller,
            "They [sang a song|raced each other|lay in the grass|threw stones at a tin|looked at a map|took off their \
             shoes|waved to a farmer|got a little lost] [and laughed|for a while|until they were tired].",
        ),
    }
}

fn ending(teller: &mut Teller<'_>, world: &mut World, memories: &[String]) {
    world.say(
        teller,
        "[In the evening|When the sun went down|At the end of the day], {a} [went|walked|ran] home",
    );
    world.expand(teller, " and told {a.their} {g} about ");
    for (position, memory) in memories.iter().enumerate() {
        if position > 0 {
            teller.write(if position + 1 == memories.len() { " and " } else { ", " });
        }
        world.expand(teller, memory);
    }
    world.expand(teller, ".");
    world.say(teller, "[\"What a day!\" said {a.their} {g}.|\"I am glad that you are home,\" said {a.their} {g}.|{A.their} {g} [smiled|laughed] and [hugged|kissed] {a.them}.]");
    if teller.once_in(1) {
        world.say(teller, "[They had|They ate|{A.their} {g} made] ");
        let dish = *teller.pick(&DISHES);
        teller.write(dish);
        world.expand(teller, " for dinner");
        world.expand(
            teller,
            if world.frame.get("dish") == Some(dish) {
                ", and {a} [was very happy|asked for more]."
            } else {
                ". \"I like {dish} better,\" said {a}, but {a.they} ate it all."
            },
        );
    }
    if world.treasure {
        world.say(teller, "{A} put {a.their} {treasure} [beside the bed|on the pillow] and fell asleep.");
    } else {
        world.say(teller, "{A} [was tired but happy|closed {a.their} eyes] and fell asleep.");
    }
    teller.paragraph();
}
