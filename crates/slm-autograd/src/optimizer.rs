//! Optimizer steps over whole parameters.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use slm_cpu_ops::AdamWStep;

use crate::host::HostBackend;
use crate::parallel;

/// Number of values that a task handles. The sum of squares is a sum of the tasks' sums, in order, so this number
/// affects the last bits of a norm.
const TASK: usize = 1 << 14;

/// Operations without gradients. The functions around them describe and check the shapes.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex)]
pub(crate) trait OptimizerOps: Backend {
    fn adamw(
        values: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    fn sum_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

macro_rules! on_host {
    ($backend:ty) => {
        impl OptimizerOps for $backend {
            fn adamw(
                values: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                moment_1: FloatTensor<Self>,
                moment_2: FloatTensor<Self>,
                step: AdamWStep,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                let gradient = Self::contiguous(gradient);
                let [mut values, mut moment_1, mut moment_2] = [values, moment_1, moment_2].map(Self::own);
                update::<Self>(&step, &mut values, &gradient, &mut moment_1, &mut moment_2);
                (values, moment_1, moment_2)
            }

            fn sum_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
                let x = Self::contiguous(x);
                let values = Self::values(&x);
                let sums = parallel::map(values.len(), values.chunks(TASK), |values| {
                    f64::from(slm_cpu_ops::sum_squares(values))
                });
                Self::from_values(vec![sums.iter().sum::<f64>() as f32], &[1])
            }
        }
    };
}

on_host!(Flex);
#[cfg(feature = "ndarray")]
on_host!(NdArray);

fn update<B: HostBackend>(
    step: &AdamWStep,
    values: &mut FloatTensor<B>,
    gradient: &FloatTensor<B>,
    moment_1: &mut FloatTensor<B>,
    moment_2: &mut FloatTensor<B>,
) {
    let gradient = B::values(gradient);
    let moments = B::owned_mut(moment_1).chunks_mut(TASK).zip(B::owned_mut(moment_2).chunks_mut(TASK));
    let tasks = B::owned_mut(values).chunks_mut(TASK).zip(gradient.chunks(TASK)).zip(moments);
    parallel::for_each(gradient.len(), tasks, |((values, gradient), (first, second))| {
        slm_cpu_ops::adamw(step, values, gradient, first, second);
    });
}
