//! Names of the layers of a module that quantization may target.

mod complete;
mod containers;
pub(crate) mod derived;
mod place;

use crate::Linear;

pub use complete::unnamed_linears;
pub use place::ModulePlace;

/// A module that names its quantizable linears, so that it can be calibrated, converted, inspected and saved.
///
/// Derive it for a Burn module made of [`Linear`]s; [the derive macro](macro@crate::NamedLinears) says how fields are
/// named. Names are dotted paths such as `layers.0.self_attn.q_proj`. They are unique, and both methods visit the same
/// layers in the same order.
///
/// ```
/// use burn::{module::Module, nn::{LayerNorm, LayerNormConfig}, tensor::Device};
/// use slm_nn::{Linear, LinearConfig, NamedLinears, linear_names};
///
/// #[derive(Module, Debug, NamedLinears)]
/// struct Mlp {
///     up: Linear,
///     norm: LayerNorm,
///     down: Vec<Linear>,
/// }
///
/// let device = Device::flex();
/// let mlp = Mlp {
///     up: LinearConfig::new(4, 8).init(0.02, &device),
///     norm: LayerNormConfig::new(8).init(&device),
///     down: vec![LinearConfig::new(8, 4).init(0.02, &device)],
/// };
/// assert_eq!(linear_names(&mlp), ["up", "down.0"]);
/// ```
pub trait NamedLinears {
    /// Visits every quantizable linear with its name, in the order of the forward pass.
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear));

    /// Mutable variant of [`NamedLinears::for_each_linear`].
    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear));
}

/// Names of all linears of `module`, in visiting order.
pub fn linear_names<M: NamedLinears + ?Sized>(module: &M) -> Vec<String> {
    let mut names = Vec::new();
    module.for_each_linear(&mut |name, _| names.push(name.to_owned()));
    names
}

/// The name `below` under `above`. Either may be empty.
fn join(above: &str, below: &str) -> String {
    match (above, below) {
        ("", name) | (name, "") => name.to_owned(),
        (above, below) => format!("{above}.{below}"),
    }
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
