//! How a module names the layers that quantization may target.

use crate::Linear;

/// A module that names its quantizable linears.
///
/// Implement it for any Burn module made of [`Linear`]s to use calibration, conversion and inspection on
/// it. Names are dotted paths such as `layers.0.self_attn.q_proj`; they are unique, and both methods visit
/// the same layers in the same order.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use slm_nn::{Linear, LinearConfig, NamedLinears, linear_names};
///
/// #[derive(Module, Debug)]
/// struct Mlp {
///     up: Linear,
///     down: Linear,
/// }
///
/// impl NamedLinears for Mlp {
///     fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
///         visit("up", &self.up);
///         visit("down", &self.down);
///     }
///     fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
///         visit("up", &mut self.up);
///         visit("down", &mut self.down);
///     }
/// }
///
/// let device = Device::flex();
/// let mlp = Mlp {
///     up: LinearConfig::new(4, 8).init(0.02, &device),
///     down: LinearConfig::new(8, 4).init(0.02, &device),
/// };
/// assert_eq!(linear_names(&mlp), ["up", "down"]);
/// ```
pub trait NamedLinears {
    /// Visits every quantizable linear with its name, in the order of the forward pass.
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear));

    /// As [`NamedLinears::for_each_linear`], with leave to change the layers.
    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear));
}

/// Names of all linears of `module`, in visiting order.
pub fn linear_names<M: NamedLinears + ?Sized>(module: &M) -> Vec<String> {
    let mut names = Vec::new();
    module.for_each_linear(&mut |name, _| names.push(name.to_owned()));
    names
}

/// Visits every linear of `module` until `visit` returns an error.
///
/// # Errors
/// The first error of `visit`.
pub fn try_for_each_linear<M: NamedLinears + ?Sized, E>(
    module: &M,
    mut visit: impl FnMut(&str, &Linear) -> Result<(), E>,
) -> Result<(), E> {
    let mut outcome = Ok(());
    module.for_each_linear(&mut |name, linear| {
        if outcome.is_ok() {
            outcome = visit(name, linear);
        }
    });
    outcome
}

/// Mutable variant of [`try_for_each_linear`].
///
/// # Errors
/// The first error of `visit`.
pub fn try_for_each_linear_mut<M: NamedLinears + ?Sized, E>(
    module: &mut M,
    mut visit: impl FnMut(&str, &mut Linear) -> Result<(), E>,
) -> Result<(), E> {
    let mut outcome = Ok(());
    module.for_each_linear_mut(&mut |name, linear| {
        if outcome.is_ok() {
            outcome = visit(name, linear);
        }
    });
    outcome
}
