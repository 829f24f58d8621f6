//! Scenes between people: comfort, riddles, comparisons, character.

use super::super::choices::Teller;
use super::super::words::{COLORS, JOBS, number};
use super::super::world::World;

/// A fall, a hurt, and comfort.
pub(super) fn hurt(teller: &mut Teller<'_>, world: &mut World) -> String {
    let (hurt, helper) = if teller.once_in(1) { ("a", "b") } else { ("b", "a") };
    world.alias("h", hurt);
    world.alias("o", helper);
    world.say(
        teller,
        "{h} [ran too fast|slipped on a wet stone|tripped over a root|jumped off a wall] and hurt {h.their} ",
    );
    let part = *teller.pick(&["knee", "elbow", "hand", "foot", "nose"]);
    world.frame.set("part", part);
    world.expand(
        teller,
        "{part}. {H.they} began to cry. {O} [hugged|comforted] {h.them} and [washed|kissed|looked at] the {part}. \
         \"Does it still hurt?\" asked {o}. \"[Not any more|Only a little],\" said {h}. Soon {h.they} was [laughing|\
         running|playing] again.",
    );
    format!("{{h}}'s {part}")
}

/// A riddle about an animal, a wrong guess, the right one.
pub(super) fn riddle(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{b} had a riddle. \"It lives ");
    let animal = teller.take(&mut world.animals);
    world.frame.set("animal", animal.name).set("food", animal.food).set("sound", animal.sound);
    teller.write(animal.home);
    world.expand(teller, "[| and says {sound}| and likes {food}]. What is it?\"");
    if teller.once_in(1) {
        world.say(teller, "\"Is it a ");
        let wrong = teller.take(&mut world.animals);
        world.frame.set("wrong", wrong.name).set("wrong sound", wrong.sound);
        world.expand(teller, "{wrong}?\" asked {a}. \"No, a {wrong} says {wrong sound},\" said {b}.");
    }
    world.say(
        teller,
        "[\"I know! It is a {animal}!\"|\"It must be a {animal},\"] said {a}. \"Yes!\" said {b}.",
    );
    "{b}'s riddle".to_owned()
}

/// Three things in order of size, and a question about the ends.
pub(super) fn tallest(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a}, {b} and ");
    world.child(teller, "c");
    world.expand(teller, "{c} ");
    let (verb, what, more, most, least) = *teller.pick(&[
        ("built", "tower", "taller", "tallest", "shortest"),
        ("threw", "ball", "faster", "fastest", "slowest"),
        ("carried", "bag", "heavier", "heaviest", "lightest"),
        ("drew", "line", "longer", "longest", "shortest"),
    ]);
    world.frame.set("what", what).set("more", more).set("most", most).set("least", least);
    teller.write(verb);
    world.expand(teller, " a {what} each. ");
    let mut people = vec!["a", "b", "c"];
    for key in ["x", "y", "z"] {
        let person = teller.take(&mut people);
        world.alias(key, person);
        match key {
            "x" => world.expand(teller, "{x}'s {what} was {more} than "),
            "y" => world.expand(teller, "{y}'s, and {y}'s was {more} than "),
            _ => world.expand(teller, "{z}'s."),
        }
    }
    world.say(
        teller,
        "[\"Whose {what} is the {most}?\" asked {a}'s {g}. \"{x}'s,\" they said.|\"Whose {what} is the {least}?\" asked \
         {a}'s {g}. \"{z}'s,\" they said.|So {x}'s {what} was the {most}.|So {z}'s {what} was the {least}.]",
    );
    format!("the {most} {what}")
}

/// A strange noise, to which the hero reacts in character.
pub(super) fn noise(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} and {b} heard a strange noise. ");
    world.expand(teller, "{a} was ");
    teller.write(world.character.name);
    world.expand(teller, ", so {a.they} ");
    world.expand(teller, world.character.on_noise);
    world.expand(
        teller,
        ". It was only [an old door in the wind|a branch on a window|water in a pipe|a wheel of a cart]. They laughed.",
    );
    "the strange noise".to_owned()
}

/// A climb, which the hero does in character.
pub(super) fn climb(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} and {b} climbed a [steep|high|rocky] hill. {a} ");
    world.expand(teller, world.character.on_hill);
    world.expand(
        teller,
        ". From the top they could see [the sea|their village|the whole valley|{a}'s house], and {b} waved {b.their} \
         [hat|arms|scarf].",
    );
    "the view from the hill".to_owned()
}

/// Talk about everybody's wishes for the future, with reasons.
pub(super) fn talk(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} asked {b} what {b.they} wanted to be. \"I want to be a ");
    let mut jobs = JOBS.to_vec();
    let (job, deed) = teller.take(&mut jobs);
    world.frame.set("job", job).set("deed", deed);
    world.expand(teller, "{job} and {deed},\" said {b}.");
    if teller.once_in(1) {
        world
            .say(teller, "\"I want to {deed} too,\" said {a}. \"[We can work together|Let us both do it].\"");
    } else {
        world.say(teller, "\"I would rather ");
        let (other, deed) = teller.take(&mut jobs);
        world.frame.set("other", other).set("other deed", deed);
        world.expand(teller, "{other deed},\" said {a}. \"So you want to be a {other},\" said {b}.");
    }
    format!("{{b}}, who wanted to be a {job}")
}

/// A birthday: presents, an age, and the age after it.
pub(super) fn birthday(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} and {b} met ");
    world.child(teller, "c");
    world.expand(teller, "{c}. It was {c.their} birthday. \"I was ");
    let age = teller.number(4, 11);
    world.frame.set("age", number(age)).set("next age", number(age + 1));
    world.expand(teller, "{age} yesterday and I am {next age} today,\" said {c}. {A} gave {c.them} a ");
    for (key, before) in [("x", ""), ("y", " and {b} gave {c.them} a ")] {
        world.expand(teller, before);
        let color = *teller.pick(&COLORS);
        teller.write(color);
        teller.write(" ");
        let toy = teller.take(&mut world.toys);
        teller.write(toy);
        world.frame.set(key, format!("{color} {toy}"));
    }
    world.expand(
        teller,
        ". [\"Thank you both!\" said {c}.|{c} put the {x} next to the {y}.|{c} liked the {x} best.|{c} liked the {y} \
         best.]",
    );
    "{c}'s birthday".to_owned()
}
