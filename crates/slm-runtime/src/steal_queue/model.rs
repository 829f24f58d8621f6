//! Model checks, with loom, of every interleaving of two or three takers up to a few preemptions.

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::StealQueue;

/// Checks takers with the ranges between `bounds`. Each takes all it can; together they must take each unit once.
fn take_all(bounds: &'static [usize], multiple: usize) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let mut queue = StealQueue::default();
        queue.restart(bounds.iter().copied(), multiple);
        let queue = Arc::new(queue);
        let take = |queue: &StealQueue, taker| {
            let chunks: Vec<_> = std::iter::from_fn(|| queue.take(taker)).collect();
            chunks.into_iter().flatten().collect::<Vec<usize>>()
        };
        let others: Vec<_> = (1..bounds.len() - 1)
            .map(|taker| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || take(&queue, taker))
            })
            .collect();
        let mut taken = take(&queue, 0);
        for other in others {
            taken.extend(other.join().expect("a taker has no panic"));
        }
        taken.sort_unstable();
        assert_eq!(taken, (0..bounds[bounds.len() - 1]).collect::<Vec<_>>());
    });
}

#[test]
fn two_takers_take_each_unit_once() {
    take_all(&[0, 3, 5], 1);
}

#[test]
fn a_taker_without_a_range_of_its_own_steals() {
    take_all(&[0, 4, 4], 1);
}

#[test]
fn pieces_of_several_units() {
    take_all(&[0, 3, 6], 2);
}

#[test]
fn three_takers_take_each_unit_once() {
    take_all(&[0, 1, 2, 3], 1);
}
