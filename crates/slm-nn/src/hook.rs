//! Forward hooks, the mechanism by which calibration, inspection and comparison see the inputs and outputs of layers.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::NamedLinears;

/// Sees the input and output of a layer after each forward pass, as PyTorch's forward hooks do.
///
/// A hook must not call the module it is attached to.
pub trait ForwardHook: Send + Sync {
    /// Called once per forward pass of `layer`.
    ///
    /// # Shapes
    /// - `input`: `[rows, in_features]`, all leading dimensions flattened into rows
    /// - `output`: `[rows, out_features]`
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>);

    /// Returns `true` if the hook reads outputs. If it does not, a run that only serves the hook may skip a product
    /// that nothing else needs, and `output` then has fewer columns.
    fn reads_output(&self) -> bool {
        true
    }
}

/// The hook of a layer, with the name of the layer to report.
#[derive(Clone)]
pub(crate) struct AttachedHook {
    layer: Arc<str>,
    hook: Arc<dyn ForwardHook>,
}

impl AttachedHook {
    pub(crate) fn call(&self, input: &Tensor<2>, output: &Tensor<2>) {
        self.hook.on_forward(&self.layer, input, output);
    }
}

impl fmt::Debug for AttachedHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedHook").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// Attaches `hook` to every linear of `module`, replacing any existing hook.
pub fn attach_hook<M: NamedLinears + ?Sized>(module: &mut M, hook: &Arc<dyn ForwardHook>) {
    module.for_each_linear_mut(&mut |name, linear| {
        linear.set_hook(Some(AttachedHook { layer: name.into(), hook: Arc::clone(hook) }));
    });
}

/// Removes the hooks of every linear of `module`.
pub fn detach_hooks<M: NamedLinears + ?Sized>(module: &mut M) {
    module.for_each_linear_mut(&mut |_, linear| linear.set_hook(None));
}
