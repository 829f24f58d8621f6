//! Memory that calls use again.

use slm_runtime::StealQueue;

use crate::inputs::{Arranged, Form};

/// Memory in which products arrange their inputs. It grows to what the largest call needs and is then used
/// again, so that a decode step allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    slots: Vec<Arranged>,
    /// Slots that hold the current input.
    used: usize,
    /// How the threads share out the current product.
    pub(crate) shares: StealQueue,
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

    /// The slot that holds the current input in a form, filled if there is none yet.
    pub(crate) fn slot(&mut self, form: Form, fill: impl FnOnce(&mut Arranged)) -> usize {
        if let Some(slot) = self.slots[..self.used].iter().position(|slot| slot.has(form)) {
            return slot;
        }
        let slot = self.used;
        if slot == self.slots.len() {
            self.slots.push(Arranged::default());
        }
        fill(&mut self.slots[slot]);
        self.used += 1;
        slot
    }

    /// The input in the form of a slot.
    pub(crate) fn arranged(&self, slot: usize) -> &Arranged {
        &self.slots[slot]
    }
}
