//! Choice of the schemes of several layers with the least cost within a size budget.

/// Number of parts that a budget is divided into. Sizes are rounded up to whole parts, so the choice never exceeds the
/// budget, but may leave up to one part per unit unused.
const PARTS: u64 = 1 << 16;

/// One way to store a unit, such as a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Size in bytes.
    pub bytes: u64,
    /// Cost. Costs of units are added up.
    pub cost: f64,
}

/// Chooses one choice for each of `units` so that all together take at most `budget` bytes and have the least total cost.
/// Returns the index of each choice, or `None` if even the smallest choices do not fit or a unit has no choice.
///
/// This is the multiple-choice knapsack problem, solved by dynamic programming over 65,536 parts of the budget: the
/// result is the best assignment that fits when every size is rounded up to whole parts.
///
/// ```
/// use slm_ptq::{Choice, assign};
///
/// let small = Choice { bytes: 4, cost: 0.3 };
/// let sensitive = [Choice { bytes: 8, cost: 0.1 }, Choice { cost: 2.0, ..small }];
/// let robust = [Choice { bytes: 8, cost: 0.1 }, small];
/// assert_eq!(assign(&[&sensitive, &robust], 12), Some(vec![0, 1]));
/// assert_eq!(assign(&[&sensitive, &robust], 7), None);
/// ```
pub fn assign(units: &[&[Choice]], budget: u64) -> Option<Vec<usize>> {
    let part = budget.div_ceil(PARTS).max(1);
    let parts = usize::try_from(budget / part).ok()?;
    let size = |choice: &Choice| usize::try_from(choice.bytes.div_ceil(part)).unwrap_or(usize::MAX);
    // The least cost of the units so far, for each number of parts.
    let mut costs = vec![0.0_f64; parts + 1];
    let mut chosen = Vec::with_capacity(units.len());
    for unit in units {
        let mut next = vec![f64::INFINITY; parts + 1];
        let mut choices = vec![0_u32; parts + 1];
        for (index, choice) in (0_u32..).zip(unit.iter()) {
            let size = size(choice);
            for used in size..=parts {
                let cost = costs[used - size] + choice.cost;
                if cost < next[used] {
                    (next[used], choices[used]) = (cost, index);
                }
            }
        }
        costs = next;
        chosen.push(choices);
    }
    let mut left = parts;
    if !costs[left].is_finite() {
        return None;
    }
    let mut assignment = vec![0; units.len()];
    for ((unit, choices), assigned) in units.iter().zip(&chosen).zip(&mut assignment).rev() {
        *assigned = choices[left] as usize;
        left -= size(&unit[*assigned]);
    }
    Some(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and cost of an assignment.
    fn total(units: &[Vec<Choice>], assignment: &[usize]) -> (u64, f64) {
        let chosen = units.iter().zip(assignment).map(|(unit, &index)| unit[index]);
        chosen.fold((0, 0.0), |(bytes, cost), choice| (bytes + choice.bytes, cost + choice.cost))
    }

    /// All assignments.
    fn all(units: &[Vec<Choice>]) -> Vec<Vec<usize>> {
        units.iter().fold(vec![Vec::new()], |assignments, unit| {
            let longer = |assignment: &Vec<usize>, index| assignment.iter().copied().chain([index]).collect();
            assignments.iter().flat_map(|a| (0..unit.len()).map(move |index| longer(a, index))).collect()
        })
    }

    #[test]
    fn the_choice_is_the_best_that_fits() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let units: Vec<Vec<Choice>> = (0..1 + random(5))
                .map(|_| {
                    let choice = |_| Choice { bytes: random(50), cost: random(1000) as f64 / 7.0 };
                    (0..3).map(choice).collect()
                })
                .collect();
            let budget = random(200);
            let slices: Vec<&[Choice]> = units.iter().map(Vec::as_slice).collect();
            let best = all(&units)
                .iter()
                .map(|assignment| total(&units, assignment))
                .filter(|(bytes, _)| *bytes <= budget)
                .map(|(_, cost)| cost)
                .min_by(f64::total_cmp);
            let found = assign(&slices, budget).map(|assignment| total(&units, &assignment));
            // With budgets below the number of parts nothing is rounded.
            assert_eq!(found.map(|(_, cost)| (cost * 1e9).round()), best.map(|cost| (cost * 1e9).round()));
            assert!(found.is_none_or(|(bytes, _)| bytes <= budget));
        }
    }

    #[test]
    fn large_budgets_are_kept_and_nearly_used_up() {
        let unit = |cost: f64| vec![Choice { bytes: 1_000_003, cost: 0.0 }, Choice { bytes: 500_001, cost }];
        let units: Vec<Vec<Choice>> = (0..210).map(|index| unit(f64::from(index))).collect();
        let slices: Vec<&[Choice]> = units.iter().map(Vec::as_slice).collect();
        let budget = 160_000_000;
        let assignment = assign(&slices, budget).unwrap();
        let (bytes, _) = total(&units, &assignment);
        assert!(bytes <= budget && bytes > budget / 1000 * 995, "{bytes}");
        // The units that are cheapest to shrink are shrunk.
        assert!(assignment.is_sorted_by(|a, b| a >= b), "{assignment:?}");
        assert_eq!(assign(&[&[]], budget), None);
        assert_eq!(assign(&[], budget), Some(Vec::new()));
    }
}
