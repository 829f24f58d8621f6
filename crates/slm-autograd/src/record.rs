//! The record that an operation leaves for its backward pass.

/// The output `$y` of an operation on a backend with gradients, with `$step` (a
/// [`Backward`](burn::backend::autodiff::ops::Backward)) recorded as its backward pass over `$nodes`, by the
/// checkpointing strategy `$strategy`. `$state`, the values that the pass needs, is evaluated only if gradients are
/// wanted.
#[macro_export]
macro_rules! record {
    ($strategy:ty, $step:expr, $nodes:expr, $y:expr, $state:expr) => {
        match $step.prepare::<$strategy>($nodes).compute_bound().stateful() {
            ::burn::backend::autodiff::ops::OpsKind::Tracked(prep) => prep.finish($state, $y),
            ::burn::backend::autodiff::ops::OpsKind::UnTracked(prep) => prep.finish($y),
        }
    };
}
