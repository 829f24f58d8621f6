//! The vocabulary of the stories.

pub(super) const GIRLS: [&str; 20] = [
    "Mia", "Lily", "Anna", "Rosa", "Zoe", "Ella", "Nora", "Ruth", "Kate", "Ivy", "Emma", "Jane", "Lucy",
    "Amy", "Sara", "Tess", "Maya", "Lena", "Clara", "Hana",
];

pub(super) const BOYS: [&str; 20] = [
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Tim", "Noah", "Finn", "Omar", "Hugo", "Paul", "Adam", "Luke",
    "Dan", "Joe", "Ravi", "Felix", "Oscar", "Ned",
];

/// People who look after a child, with `true` for the pronoun `she`.
pub(super) const ELDERS: [(&str, bool); 6] = [
    ("mother", true),
    ("father", false),
    ("grandmother", true),
    ("grandfather", false),
    ("aunt", true),
    ("uncle", false),
];

/// A character's trait, which determines how the character acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trait {
    pub(super) name: &'static str,
    /// Whether the character likes to lend things.
    pub(super) generous: bool,
    /// Reaction of `{a}` to a strange noise.
    pub(super) on_noise: &'static str,
    /// Reaction of the character to a hill that has to be climbed.
    pub(super) on_hill: &'static str,
}

pub(super) const TRAITS: [Trait; 8] = [
    Trait {
        name: "brave",
        generous: true,
        on_noise: "walked straight up to it",
        on_hill: "went first and never looked down",
    },
    Trait {
        name: "shy",
        generous: true,
        on_noise: "hid behind {b}",
        on_hill: "followed quietly and said nothing",
    },
    Trait {
        name: "curious",
        generous: true,
        on_noise: "asked what it could be and went to look",
        on_hill: "stopped at every stone to look under it",
    },
    Trait {
        name: "lazy",
        generous: false,
        on_noise: "yawned and did not get up",
        on_hill: "sat down to rest three times",
    },
    Trait {
        name: "careful",
        generous: true,
        on_noise: "took one slow step at a time",
        on_hill: "tested every stone before stepping on it",
    },
    Trait {
        name: "stubborn",
        generous: false,
        on_noise: "said that it was nothing at all",
        on_hill: "would not turn back for anything",
    },
    Trait {
        name: "greedy",
        generous: false,
        on_noise: "hoped that it was something to eat",
        on_hill: "ate all the bread before the top",
    },
    Trait {
        name: "cheerful",
        generous: true,
        on_noise: "laughed and called hello",
        on_hill: "sang all the way to the top",
    },
];

/// A thing that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    pub(super) edible: bool,
}

const fn food(one: &'static str, many: &'static str) -> Thing {
    Thing { one, many, edible: true }
}

const fn thing(one: &'static str, many: &'static str) -> Thing {
    Thing { one, many, edible: false }
}

pub(super) const COUNTED: [Thing; 20] = [
    food("apple", "apples"),
    food("pear", "pears"),
    food("plum", "plums"),
    food("orange", "oranges"),
    food("peach", "peaches"),
    food("berry", "berries"),
    food("cherry", "cherries"),
    food("nut", "nuts"),
    food("cookie", "cookies"),
    food("bun", "buns"),
    thing("shell", "shells"),
    thing("stone", "stones"),
    thing("feather", "feathers"),
    thing("leaf", "leaves"),
    thing("flower", "flowers"),
    thing("button", "buttons"),
    thing("marble", "marbles"),
    thing("card", "cards"),
    thing("stick", "sticks"),
    thing("ribbon", "ribbons"),
];

/// Things that exist only once.
pub(super) const TOYS: [&str; 16] = [
    "ball", "kite", "drum", "doll", "toy car", "toy boat", "hat", "scarf", "cup", "book", "robot", "bear",
    "train", "whistle", "lamp", "umbrella",
];

pub(super) const COLORS: [&str; 10] =
    ["red", "blue", "green", "yellow", "white", "black", "brown", "pink", "purple", "silver"];

pub(super) const SIZES: [&str; 4] = ["small", "big", "little", "tiny"];

/// Destinations; all of them take "to the" and "at the".
pub(super) const PLACES: [&str; 12] = [
    "park", "beach", "forest", "farm", "market", "river", "lake", "meadow", "village", "harbor", "orchard",
    "mill",
];

/// Places where a thing can be put or hidden.
pub(super) const SPOTS: [&str; 12] = [
    "in the box",
    "in the basket",
    "in the drawer",
    "in the jar",
    "under the bed",
    "under the table",
    "behind the door",
    "behind the curtain",
    "on the shelf",
    "on the chair",
    "next to the stove",
    "next to the window",
];

/// Landmarks along a way.
pub(super) const LANDMARKS: [&str; 10] = [
    "over the bridge",
    "past the mill",
    "through the gate",
    "around the pond",
    "across the field",
    "up the hill",
    "along the wall",
    "past the church",
    "through the tunnel",
    "under the old oak",
];

pub(super) const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// An animal, its sound, its food, and its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Animal {
    pub(super) name: &'static str,
    pub(super) sound: &'static str,
    pub(super) food: &'static str,
    pub(super) home: &'static str,
}

const fn animal(name: &'static str, sound: &'static str, food: &'static str, home: &'static str) -> Animal {
    Animal { name, sound, food, home }
}

pub(super) const ANIMALS: [Animal; 12] = [
    animal("cat", "meow", "fish", "in a basket"),
    animal("dog", "woof", "meat", "in a kennel"),
    animal("duck", "quack", "weeds", "on a pond"),
    animal("cow", "moo", "grass", "in a barn"),
    animal("mouse", "squeak", "cheese", "in a hole"),
    animal("horse", "neigh", "hay", "in a stable"),
    animal("sparrow", "tweet", "seeds", "in a nest"),
    animal("frog", "croak", "flies", "in a ditch"),
    animal("sheep", "baa", "clover", "in a pen"),
    animal("hen", "cluck", "corn", "in a coop"),
    animal("bee", "buzz", "honey", "in a hive"),
    animal("pig", "oink", "turnips", "in a sty"),
];

/// Something to make, and its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) verb: &'static str,
    pub(super) parts: [&'static str; 5],
    pub(super) result: &'static str,
}

pub(super) const RECIPES: [Recipe; 5] = [
    Recipe {
        name: "soup",
        verb: "cook",
        parts: ["carrots", "beans", "onions", "salt", "water"],
        result: "The soup was hot and tasted good",
    },
    Recipe {
        name: "a cake",
        verb: "bake",
        parts: ["flour", "eggs", "butter", "sugar", "milk"],
        result: "The cake was sweet and soft",
    },
    Recipe {
        name: "a raft",
        verb: "build",
        parts: ["logs", "rope", "nails", "planks", "cloth"],
        result: "The raft floated and did not sink",
    },
    Recipe {
        name: "a lantern",
        verb: "make",
        parts: ["paper", "glue", "wire", "string", "paint"],
        result: "The lantern shone all night",
    },
    Recipe {
        name: "a nest box",
        verb: "build",
        parts: ["boards", "screws", "straw", "bark", "wax"],
        result: "A pair of birds moved in the next day",
    },
];

/// Things one likes to do.
pub(super) const PASTIMES: [&str; 20] = [
    "swimming",
    "painting",
    "singing",
    "dancing",
    "climbing trees",
    "reading",
    "drawing",
    "cooking",
    "fishing",
    "running",
    "skipping rope",
    "telling jokes",
    "building huts",
    "watching birds",
    "counting stars",
    "catching crabs",
    "picking flowers",
    "riding horses",
    "making up songs",
    "playing chess",
];

/// Things one likes to eat.
pub(super) const DISHES: [&str; 20] = [
    "pancakes",
    "noodles",
    "rice",
    "fish pie",
    "tomato soup",
    "honey cake",
    "potatoes",
    "toast",
    "bean stew",
    "apple tart",
    "dumplings",
    "porridge",
    "pumpkin pie",
    "corn bread",
    "onion soup",
    "fried eggs",
    "plum jam",
    "figs",
    "grapes",
    "salad",
];

/// A profession and its work.
pub(super) const JOBS: [(&str, &str); 14] = [
    ("baker", "bake bread every day"),
    ("sailor", "sail around the world"),
    ("doctor", "make sick people well"),
    ("farmer", "grow corn and beans"),
    ("teacher", "teach children to read"),
    ("singer", "sing in front of a crowd"),
    ("builder", "build tall houses"),
    ("painter", "paint pictures of the sea"),
    ("pilot", "fly above the clouds"),
    ("tailor", "sew coats and shirts"),
    ("shepherd", "look after sheep"),
    ("miner", "dig for gold"),
    ("cook", "make dinner for a king"),
    ("writer", "write a book about us"),
];

/// Sights at each place, in the order of [`PLACES`].
pub(super) const SIGHTS: [[&str; 4]; 12] = [
    ["a fountain", "old men on benches", "children on swings", "a row of roses"],
    ["the waves", "white gulls", "a sand castle", "crabs in the sand"],
    ["tall pines", "a fox", "mushrooms", "an owl in a tree"],
    ["a tractor", "cows", "a red barn", "a field of corn"],
    ["baskets of fruit", "a man who sold fish", "a juggler", "rolls of cloth"],
    ["a boat", "a heron", "smooth stones", "a man with a net"],
    ["swans", "a wooden pier", "lilies on the water", "a rowing boat"],
    ["butterflies", "wild flowers", "a rabbit", "a hill of ants"],
    ["the church", "a bakery", "a cat on a wall", "a well"],
    ["big ships", "sailors", "ropes and nets", "a lighthouse"],
    ["ladders", "rows of trees", "ripe fruit", "women with baskets"],
    ["the big wheel", "sacks of flour", "a donkey", "the miller"],
];

const NUMBERS: [&str; 21] = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Writes a number in words up to twenty, in digits above, and zero as "no", as in "no apples".
pub(super) fn number(count: usize) -> String {
    NUMBERS.get(count).map_or_else(|| count.to_string(), |&word| word.to_owned())
}

impl Thing {
    /// Writes a count with its noun: "one apple", "three apples", "no apples".
    pub(super) fn counted(&self, count: usize) -> String {
        format!("{} {}", number(count), if count == 1 { self.one } else { self.many })
    }
}

/// Returns `phrase` with its indefinite article.
pub(super) fn a(phrase: &str) -> String {
    let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {phrase}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_articles_agree() {
        let peach = COUNTED[4];
        assert_eq!(peach.counted(0), "no peaches");
        assert_eq!(peach.counted(1), "one peach");
        assert_eq!(peach.counted(20), "twenty peaches");
        assert_eq!(number(21), "21");
        assert_eq!(a("old hat"), "an old hat");
        assert_eq!(a("red umbrella"), "a red umbrella");
    }

    #[test]
    fn no_two_words_of_a_list_are_the_same() {
        fn distinct(words: &[&str]) {
            for (i, word) in words.iter().enumerate() {
                assert!(!words[..i].contains(word), "{word} twice");
            }
        }
        distinct(&[GIRLS, BOYS].concat());
        distinct(&TRAITS.map(|one| one.name));
        distinct(&COUNTED.map(|one| one.many));
        distinct(&TOYS);
        distinct(&COLORS);
        distinct(&PLACES);
        distinct(&SPOTS);
        distinct(&LANDMARKS);
        distinct(&ANIMALS.map(|one| one.sound));
        distinct(&ANIMALS.map(|one| one.home));
    }
}
