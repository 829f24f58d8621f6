//! The operations that compute a model, and the model written in terms of them.
//!
//! [`Compute`] is the set of operations that the walk through a model ([`walk`]) needs. Three implementations exist:
//! Burn's tensor operations ([`burn`]), the fused operations with gradients of `slm-autograd` ([`autograd`]), and
//! kernels on slices of host memory ([`crate::cpu`]).

pub(crate) mod autograd;
pub(crate) mod burn;
mod parts;
pub(crate) mod tensors;
pub(crate) mod walk;

use ::burn::tensor::{Int, Tensor};
use slm_nn::Linear;

pub(crate) use self::parts::{Around, Embedding, HeadParts, HeadShape, LayerParts, ModelParts};
use crate::config::Activation;
use crate::norm::Norm;
use crate::token_table::TokenTable;

/// Operations on the activations of one pass.
///
/// For the walk, activations are `[rows, width]`; an implementation may hold several sequences together. The operation
/// that reads an activation last consumes it, so that its memory can be reused.
pub(crate) trait Compute {
    /// A prepared linear layer.
    type Linear<'w>;
    /// A prepared norm.
    type Norm<'w>;
    /// The residual stream.
    type Stream;
    /// An activation outside the stream.
    type Value;
    /// Output of the head.
    type Logits;
    /// Error of the computation.
    type Error;

    /// Prepares a linear layer. `name` is for errors.
    fn linear<'w>(&self, linear: &'w Linear, name: &str) -> Result<Self::Linear<'w>, Self::Error>;

    /// Prepares a norm.
    fn norm<'w>(&self, norm: &'w Norm) -> Result<Self::Norm<'w>, Self::Error>;

    /// Starts a pass over `rows` positions from `start` on.
    fn start(&mut self, start: usize, rows: usize);

    /// The stream before the first layer: the rows of `table` at `ids`.
    fn embed(&mut self, table: &TokenTable, ids: Tensor<2, Int>) -> Result<Self::Stream, Self::Error>;

    /// The rows of `table` at the positions of the pass.
    fn positions(&mut self, table: &Tensor<2>) -> Result<Self::Value, Self::Error>;

    /// Multiplies the stream.
    fn scale(&mut self, stream: &mut Self::Stream, factor: f64) -> Result<(), Self::Error>;

    /// A copy of the stream, normalized if there is a norm.
    fn read(
        &mut self,
        stream: &mut Self::Stream,
        norm: Option<&Self::Norm<'_>>,
    ) -> Result<Self::Value, Self::Error>;

    /// Normalizes an activation.
    fn normalize(&mut self, x: Self::Value, norm: &Self::Norm<'_>) -> Result<Self::Value, Self::Error>;

    /// Adds `factor` times `x` to the stream.
    fn add(&mut self, stream: &mut Self::Stream, x: Self::Value, factor: f64) -> Result<(), Self::Error>;

    /// Applies several linear layers to one input.
    fn linears<const N: usize>(
        &mut self,
        x: Self::Value,
        linears: [&Self::Linear<'_>; N],
    ) -> Result<[Self::Value; N], Self::Error>;

    /// Normalizes and rotates queries and keys as `layer` says, and computes their attention to all positions so far.
    fn attend<'w>(
        &mut self,
        qkv: [Self::Value; 3],
        layer: &LayerParts<Self::Linear<'w>, Self::Norm<'w>>,
    ) -> Result<Self::Value, Self::Error>;

    /// Computes `activation(gate) * up`, or without a gate `activation(up)`.
    fn activate(
        &mut self,
        gate: Option<Self::Value>,
        up: Self::Value,
        activation: Activation,
    ) -> Result<Self::Value, Self::Error>;

    /// Performs additions that [`add`](Self::add) may have deferred.
    fn settle(&mut self, stream: &mut Self::Stream) -> Result<(), Self::Error>;

    /// A copy of a settled stream.
    fn copy(&mut self, stream: &Self::Stream) -> Self::Stream;

    /// Reduces the stream to its last position.
    fn keep_last(&mut self, stream: &mut Self::Stream) -> Result<(), Self::Error>;

    /// Releases the memory of a stream.
    fn finish(&mut self, stream: Self::Stream);

    /// Applies the head and multiplies the logits by `factor`.
    fn head(
        &mut self,
        x: Self::Value,
        head: &HeadParts<Self::Linear<'_>>,
        factor: f64,
    ) -> Result<Self::Logits, Self::Error>;
}
