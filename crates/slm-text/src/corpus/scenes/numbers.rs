//! Scenes that count.

use super::super::choices::Teller;
use super::super::template::capitalized;
use super::super::words::{Thing, a, number};
use super::super::world::World;

/// Draws a thing that is new to the story, and fills the slots `things` and `thing`.
fn new_thing(teller: &mut Teller<'_>, world: &mut World) -> Thing {
    let thing = teller.take(&mut world.things);
    world.frame.set("things", thing.many).set("thing", thing.one);
    thing
}

/// One has some, gives and finds and eats, and counts again.
pub(super) fn gifts(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} had ");
    let mut count = teller.number(3, 10);
    teller.write(&number(count));
    let thing = new_thing(teller, world);
    world.expand(teller, " {things}[| in a [bag|basket|bowl]].");
    let steps = teller.number(1, 3);
    for step in 0..steps {
        let more = count <= 1 || (count < 12 && teller.once_in(2));
        let change = if more { teller.number(1, 5) } else { teller.number(1, count) };
        world.frame.set("change", number(change));
        world.frame.set("pick up", thing.counted(change));
        if more {
            count += change;
            world.say(
                teller,
                "{A.they} [found {change} more.|got {change} more from {b}.|picked up {pick up}.]",
            );
        } else {
            count -= change;
            world.say(
                teller,
                if thing.edible {
                    "{A.they} [gave {change} to {b}.|ate {change}.|dropped {change}.]"
                } else {
                    "{A.they} [gave {change} to {b}.|lost {change}.|dropped {change}.]"
                },
            );
        }
        world.frame.set("left", thing.counted(count)).set("count", number(count));
        if step + 1 == steps || teller.once_in(1) {
            report(teller, world, more, count);
        }
    }
    format!("the {}", thing.many)
}

fn report(teller: &mut Teller<'_>, world: &World, more: bool, count: usize) {
    let answer = if count == 0 { "none at all" } else { "{count}" };
    world.say(
        teller,
        &format!(
            "[Now {{a.they}} had {{left}}.|\"How many {{things}} do you have now?\" asked {{b}}. \
             \"I have {answer},\" said {{a}}.{}]",
            if more { "|That made {left}." } else { "|That left {left}." }
        ),
    );
}

/// Two numbers, which is more, and their sum.
pub(super) fn together(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [found|picked|collected] ");
    let first = teller.number(1, 9);
    teller.write(&number(first));
    let thing = new_thing(teller, world);
    teller.write(" ");
    teller.write(if first == 1 { thing.one } else { thing.many });
    let second = teller.number(1, 9);
    world.frame.set("second", number(second));
    world.expand(teller, ", and {b} [found|picked|collected] {second}.");
    match first.cmp(&second) {
        std::cmp::Ordering::Greater => world.say(teller, "{a} had more than {b}."),
        std::cmp::Ordering::Less => world.say(teller, "{b} had more than {a}."),
        std::cmp::Ordering::Equal => world.say(teller, "They had the same number."),
    }
    world.frame.set("sum", thing.counted(first + second));
    world.say(teller, "[Together they had {sum}.|They put them all in one pile and counted {sum}.]");
    format!("the pile of {}", thing.many)
}

/// An even number, halved.
pub(super) fn fair_shares(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} and {b} had ");
    let half = teller.number(1, 8);
    teller.write(&number(2 * half));
    let thing = new_thing(teller, world);
    world.frame.set("half", number(half)).set("half counted", thing.counted(half));
    world.expand(teller, " {things} to share. \"[Let us be fair|We must share them fairly],\" said {b}.");
    world.say(
        teller,
        "[So {a} took {half} and {b} took {half}.|Each of them got {half counted}.] \
         [Nobody was sad.|That was fair.|Both were happy.]",
    );
    format!("sharing the {}", thing.many)
}

/// A price, a purse, and what is left in it.
pub(super) fn shop(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [came to a shop|saw a man with a cart|met a woman with a basket].");
    world.say(teller, "\"");
    let thing = new_thing(teller, world);
    let one = a(thing.one);
    let price = teller.number(1, 4);
    let coins = |count: usize| format!("{} {}", number(count), if count == 1 { "coin" } else { "coins" });
    world.frame.set("price", coins(price));
    teller.write(&capitalized(&one));
    world.expand(teller, " costs {price},\" {a.they} [heard|was told]. ");
    let bought = teller.number(1, 4);
    let spare = teller.number(0, 5);
    world.frame.set("purse", coins(price * bought + spare));
    world.frame.set("bought", thing.counted(bought)).set("paid", coins(price * bought));
    world.expand(teller, "{A.they} had {purse}. {A.they} bought {bought} and paid {paid}.");
    world.frame.set("spare", coins(spare));
    world.say(teller, "[{A.they} had {spare} left.|Now {a.they} had {spare} in {a.their} pocket.]");
    format!("the {} from the shop", if bought == 1 { thing.one } else { thing.many })
}

/// The hour now, the hour to be home, and the time between.
pub(super) fn clock(teller: &mut Teller<'_>, world: &mut World) -> String {
    world.say(teller, "{a} [looked at the clock|asked what time it was]. It was ");
    let now = teller.number(1, 7);
    teller.write(&number(now));
    world.expand(teller, " o'clock. \"I must be home at ");
    let hours = teller.number(1, 5);
    teller.write(&number(now + hours));
    world.frame.set("hours", format!("{} {}", number(hours), if hours == 1 { "hour" } else { "hours" }));
    world.expand(teller, ",\" said {b}. \"Then we have {hours} [left|to play],\" said {a}.");
    "the time".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::choices::Drawn;

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
    }

    fn as_number(word: &str) -> Option<usize> {
        (1..=20).find(|&count| number(count) == word)
    }

    /// Follows a paragraph of giving and finding word by word, and returns the number of totals that it states.
    fn check_counting(paragraph: &str) -> usize {
        let mut count = 0_usize;
        let mut stated = 0;
        for sentence in paragraph.split_inclusive(['.', '"']) {
            let all: Vec<&str> = words(sentence).collect();
            let number_after = |verb: &str| {
                let at = all.iter().position(|&word| word == verb)?;
                all[at + 1..].iter().find_map(|word| as_number(word))
            };
            let first_total = ["Now", "That", "I"].iter().any(|word| all.first() == Some(word));
            if first_total {
                let said = all.iter().find_map(|word| as_number(word)).unwrap_or(0);
                assert_eq!(said, count, "{sentence} in {paragraph}");
                stated += 1;
            } else if let Some(start) = number_after("had") {
                count = start;
            } else if let Some(fewer) =
                ["gave", "ate", "lost", "dropped"].iter().find_map(|verb| number_after(verb))
            {
                count = count.checked_sub(fewer).unwrap_or_else(|| panic!("more than there is: {paragraph}"));
            } else if let Some(more) = ["found", "got", "up"].iter().find_map(|verb| number_after(verb)) {
                count += more;
            }
        }
        stated
    }

    #[test]
    fn what_is_given_and_found_adds_up() {
        let mut stated = 0;
        for seed in 0..2000 {
            let mut drawn = Drawn::new(seed, 0);
            let mut teller = Teller::new(&mut drawn);
            let mut world = World::new();
            world.bind("a", "Mia", true);
            world.bind("b", "Tom", false);
            gifts(&mut teller, &mut world);
            stated += check_counting(&teller.into_story().text);
        }
        assert!(stated > 2500, "only {stated} totals were stated");
    }

    #[test]
    fn the_checker_of_sums_can_fail() {
        let wrong = "Mia had five plums. She gave two to Tom. Now she had four plums.";
        assert!(std::panic::catch_unwind(|| check_counting(wrong)).is_err());
    }
}
