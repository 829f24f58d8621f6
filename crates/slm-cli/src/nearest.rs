//! The names that a misspelt one was probably meant to be.

/// Least similarity (Jaro-Winkler) at which a name is suggested.
const SIMILAR: f64 = 0.85;

/// Returns the items whose names are similar to `wanted`, the most similar first. An item with several names may come
/// several times.
pub(crate) fn similar<'a, T>(wanted: &str, named: impl IntoIterator<Item = (&'a str, T)>) -> Vec<T> {
    let wanted = wanted.to_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &wanted);
    let mut found: Vec<(f64, T)> = named.into_iter().map(|(name, item)| (likeness(name), item)).collect();
    found.retain(|(likeness, _)| *likeness >= SIMILAR);
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_names_come_first() {
        let names = [("gate_proj", 1), ("up_proj", 2), ("GATE_PROJS", 3), ("norm", 4)];
        assert_eq!(similar("Gate_Proj", names), [1, 3]);
        assert!(similar("xyz", names).is_empty());
    }
}
