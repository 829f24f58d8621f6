//! Memory that is reused from call to call.

use slm_runtime::StealQueue;

use crate::lhs::{LhsLayout, PackedLhs};

/// The memory in which products pack their inputs. It grows to the size of the largest call and is then reused, so that
/// a decode step allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    slots: Vec<PackedLhs>,
    /// Number of slots that hold the current input.
    used: usize,
    /// The panels of the current product, as a work-stealing queue.
    pub(crate) queue: StealQueue,
}

impl Workspace {
    /// An empty workspace.
    pub fn new() -> Self {
        Self::default()
    }

    /// Discards the input and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// The slot that holds the current input in `layout`. A slot is filled if none holds it yet.
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

    /// The packed input of a slot.
    pub(crate) fn packed_lhs(&self, slot: usize) -> &PackedLhs {
        &self.slots[slot]
    }
}
