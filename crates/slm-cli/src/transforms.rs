//! The changes of a float model before it was quantized, in words.

use slm_checkpoint::TransformRecord;

/// Describes the changes; `None` if there were none.
pub(crate) fn in_words(record: TransformRecord) -> Option<String> {
    let TransformRecord { rotation_seed, smoothing_strength, equalized_mlps, equalized_norms } = record;
    let places = [(equalized_mlps, "in", "MLPs"), (equalized_norms, "behind", "norms")];
    let places = places.iter().filter_map(|(count, at, what)| Some(format!("{at} {} {what}", (*count)?)));
    let places: Vec<String> = places.collect();
    let done: Vec<String> = [
        rotation_seed.map(|seed| format!("rotated (seed {seed})")),
        smoothing_strength.map(|strength| format!("smoothed (strength {strength})")),
        (!places.is_empty()).then(|| format!("equalized {}", places.join(" and "))),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!done.is_empty()).then(|| done.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_described_once() {
        let record = TransformRecord { rotation_seed: Some(7), ..TransformRecord::default() };
        assert_eq!(in_words(record).as_deref(), Some("rotated (seed 7)"));
        let record = TransformRecord {
            equalized_mlps: Some(4),
            equalized_norms: Some(8),
            ..TransformRecord::default()
        };
        assert_eq!(in_words(record).as_deref(), Some("equalized in 4 MLPs and behind 8 norms"));
        assert_eq!(in_words(TransformRecord::default()), None);
    }
}
