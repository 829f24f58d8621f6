//! Inputs of linear layers, as backward passes keep them.
//!
//! The gradient of a weight needs the layer's input. If that is the output of a norm or an activation function, it is not
//! kept: it is computed again from the inputs of that function, which are kept for its own gradient anyway, by the same code
//! and so with the same bits. This is the selective activation recomputation of Korthikanti and others (2022,
//! arXiv:2205.05198); in a layer of a Llama model it saves a third of the values that a training step keeps. The output of
//! attention is needed for its own gradient, and kept for both, perhaps in 16 bits.
//!
//! A tensor does not tell how it was computed. So every thread remembers its last such output until a later one replaces it.
//! As long as it does, the memory of the output is neither freed nor written to, and a tensor with the same address and length
//! has the same values, whatever its shape.

use std::any::Any;
use std::cell::RefCell;

use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;

use crate::host::{HostBackend, dims};
use crate::mlp::{self, Gelu};
use crate::norm;
use crate::stored::Stored;

thread_local! {
    /// A [`Remembered`] of the backend that computed it.
    static LAST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// An output, and how it was computed.
struct Remembered<B: HostBackend> {
    output: FloatTensor<B>,
    recipe: Recipe<B>,
}

/// A cheap operation with its inputs, contiguous.
#[derive(Debug, Clone)]
pub(crate) enum Recipe<B: HostBackend> {
    RmsNorm {
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        eps: f32,
    },
    LayerNorm {
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
        eps: f32,
    },
    Swiglu {
        gate: Stored<B>,
        up: Stored<B>,
    },
    Gelu {
        x: Stored<B>,
        kind: Gelu,
    },
    /// An output that is kept for its own gradient.
    Stored(Stored<B>),
}

impl<B: HostBackend> Recipe<B> {
    /// The output of the operation.
    pub(crate) fn compute(&self) -> FloatTensor<B> {
        match self {
            Self::RmsNorm { x, weight, eps } => norm::rms_forward::<B>(x, weight, *eps),
            Self::LayerNorm { x, weight, bias, eps } => norm::layer_forward::<B>(x, weight, bias, *eps),
            Self::Swiglu { gate, up } => mlp::swiglu_forward::<B>(gate, up),
            Self::Gelu { x, kind } => mlp::gelu_forward::<B>(x, *kind),
            Self::Stored(output) => output.tensor(),
        }
    }

    /// Computes the output and remembers it for [`KeptInput::new`].
    pub(crate) fn compute_and_remember(self) -> FloatTensor<B> {
        let output = self.compute();
        let remembered = Remembered { output: output.clone(), recipe: self };
        LAST.set(Some(Box::new(remembered)));
        output
    }
}

/// The input of a layer: its values, or how to compute them again.
#[derive(Debug, Clone)]
pub struct KeptInput<B: HostBackend>(Kept<B>);

#[derive(Debug, Clone)]
enum Kept<B: HostBackend> {
    Values(FloatTensor<B>),
    Recipe(Recipe<B>, Shape),
}

impl<B: HostBackend> KeptInput<B> {
    /// Keeps the 32-bit floats `x`.
    pub fn new(x: FloatTensor<B>) -> Self {
        let x = B::contiguous(x);
        let recipe = LAST.with_borrow(|last| {
            let remembered = last.as_ref()?.downcast_ref::<Remembered<B>>()?;
            let is_same = std::ptr::eq(B::values(&remembered.output), B::values(&x));
            is_same.then(|| remembered.recipe.clone())
        });
        Self(match recipe {
            Some(recipe) => Kept::Recipe(recipe, Shape::from(dims(&x))),
            None => Kept::Values(x),
        })
    }

    /// The input, contiguous.
    pub fn tensor(&self) -> FloatTensor<B> {
        match &self.0 {
            Kept::Values(x) => x.clone(),
            Kept::Recipe(recipe, shape) => B::float_reshape(recipe.compute(), shape.clone()),
        }
    }
}

#[cfg(test)]
#[path = "kept_input_tests.rs"]
mod tests;
