//! Memory that calls use again.

use slm_runtime::StealQueue;

use crate::lhs::{LhsLayout, PackedLhs};

/// Memory in which products pack their inputs. It grows to what the largest call needs and is then used
/// again, so that a decode step allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    slots: Vec<PackedLhs>,
    /// Slots that hold the current input.
    used: usize,
    /// The panels of the current product, which threads take from each other.
    pub(crate) queue: StealQueue,
}

impl Workspace {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the input, not the memory.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// The slot that holds the current input in a layout, filled if there is none yet.
    pub(crate) fn slot(&mut self, layout: LhsLayout, fill: impl FnOnce(&mut PackedLhs)) -> usize {
        if let Some(slot) = self.slots[..self.used].iter().position(|slot| slot.has(layout)) {
            return slot;
        }
        let slot = self.used;
        if slot == self.slots.len() {
            self.slots.push(PackedLhs::default());
        }
        fill(&mut self.slots[slot]);
        self.used += 1;
        slot
    }

    /// The input in the layout of a slot.
    pub(crate) fn packed_lhs(&self, slot: usize) -> &PackedLhs {
        &self.slots[slot]
    }
}
