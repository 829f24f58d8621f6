//! Scenes about things: where they are, who owns them, and what they are made of.

use super::super::choices::Teller;
use super::super::words::{COLORS, RECIPES, SPOTS};
use super::super::world::World;

/// Draws a colored thing that is new to the story.
fn colored(teller: &mut Teller<'_>, world: &mut World) -> String {
    let color = *teller.pick(&COLORS);
    let toy = teller.take(&mut world.toys);
    format!("{color} {toy}")
}

/// A thing is put somewhere; it stays, or somebody moves it unseen. It is looked for where it was put.
pub(super) fn moved_away(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} put a ");
    let toy = colored(teller, world);
    world.frame.set("toy", &toy);
    teller.write(&toy);
    teller.write(" ");
    let mut spots = SPOTS.to_vec();
    let first = teller.take(&mut spots);
    world.frame.set("first", first);
    world.expand(
        teller,
        "{first} and [went out to play|went to wash {a.their} hands|went to fetch some water].",
    );
    if teller.once_in(1) {
        world.say(teller, "While {a.they} was away, {b} moved the {toy}. {B.they} put it ");
        let second = teller.take(&mut spots);
        world.frame.set("second", second);
        world.expand(
            teller,
            "{second}. When {a} came back, {a.they} looked {first}, but the {toy} was not there. \
             \"[Where is it|Where has it gone]?\" asked {a}. \"I put it {second},\" said {b}.",
        );
    } else {
        world.say(teller, "[Nobody touched it.|{b} did not see it.]");
        world.say(teller, "When {a} came back, {a.they} [forgot where it was and looked|looked first] ");
        let wrong = teller.take(&mut spots);
        world.frame.set("second", wrong);
        world.expand(
            teller,
            "{second}, but the {toy} was not there. Then {a.they} looked {first}. [There it was!|It was still there.]",
        );
    }
    format!("the {toy}")
}

/// Two things change hands.
pub(super) fn trade(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} showed {b} a ");
    let first = colored(teller, world);
    teller.write(&first);
    world.expand(teller, ", and {b} showed {a.them} a ");
    let second = colored(teller, world);
    teller.write(&second);
    world.frame.set("first", &first).set("second", &second);
    world.expand(
        teller,
        ". \"[Will you trade with me|Shall we trade]?\" said {b}. [{a} liked the {second} better|{a} was tired of the {first}], \
         so {a.they} said yes. Now {a} had the {second} and {b} had the {first}.",
    );
    format!("the {second} that {{b}} gave {{a.them}}")
}

/// A request, and an answer that fits the character of the person asked.
pub(super) fn lend(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} was playing with a ");
    let toy = colored(teller, world);
    world.frame.set("toy", &toy);
    world.expand(teller, &format!("{toy}. \"May I [hold|have|try] it for a while?\" asked {{b}}."));
    if world.character.generous {
        world.say(
            teller,
            "\"[Yes, of course|Yes, here you are],\" said {a}. {B} [thanked {a.them}|was very careful with it] \
             and gave it back [soon|before dinner].",
        );
    } else {
        world.say(
            teller,
            "\"No, it is mine,\" said {a}. {B} [was sad|began to cry] and went away. Then {a} felt sorry. \
             {A.they} ran after {b} and gave {b.them} the {toy}. \"We can share it,\" {a.they} said.",
        );
    }
    format!("the {toy}")
}

/// Something is made from three parts that three people bring.
pub(super) fn make(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} and {b} [wanted|decided] to ");
    let recipe = *teller.pick(&RECIPES);
    teller.write(recipe.verb);
    teller.write(" ");
    teller.write(recipe.name);
    let mut parts = recipe.parts.to_vec();
    for (key, before, after) in [("x", ". ", "{a}"), ("y", ", ", "{b}"), ("z", ", and ", "{c}")] {
        teller.write(before);
        if key == "z" {
            world.child(teller, "c");
        }
        world.expand(teller, after);
        teller.write(" brought the ");
        let part = teller.take(&mut parts);
        world.frame.set(key, part);
        teller.write(part);
    }
    teller.write(".");
    if teller.once_in(1) {
        let asked = teller.index(3);
        let (part, person) = [("x", "a"), ("y", "b"), ("z", "c")][asked];
        let (part, person) = (format!("{{{part}}}"), format!("{{{person}}}"));
        world.say(
            teller,
            &format!("\"Who brought the {part}?\" asked a neighbor. \"{person} did,\" they said."),
        );
    }
    world.say(teller, "They [worked|were busy] until [noon|dark].");
    world.say(teller, recipe.result);
    teller.write(".");
    format!("how they had made {}", recipe.name)
}
