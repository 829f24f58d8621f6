//! Products with codes in host memory, by the kernels.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use slm_autograd::{HostBackend, KeptInput, Matrix, Precision, matmul};
use slm_kernels::linear;
use slm_quant_core::ActivationQuant;
use slm_runtime::zeros;

use super::Stored;
use super::ops::CodeProducts;
use crate::SharedQatStage;
use crate::activation::InputRanges;
use crate::errors::Place;
use crate::fake_quant::fake_quantizer::FakeQuantizer;

macro_rules! products_of_host {
    ($backend:ty) => {
        impl CodeProducts for $backend {
            type Kept = KeptInput<Self>;

            fn keep(x: FloatTensor<Self>) -> Self::Kept {
                KeptInput::new(x)
            }

            fn kept(x: &Self::Kept) -> FloatTensor<Self> {
                x.tensor()
            }

            fn product(x: &FloatTensor<Self>, stored: &Stored) -> FloatTensor<Self> {
                product::<Self>(x, stored)
            }

            fn gradients(
                x: &FloatTensor<Self>,
                grad: &FloatTensor<Self>,
                stored: &Stored,
                [by_x, by_weight]: [bool; 2],
            ) -> [Option<FloatTensor<Self>>; 2] {
                let quantizer = input_quantizer::<Self>(x, stored);
                [
                    by_x.then(|| by_input::<Self>(x, grad, stored, &quantizer)),
                    by_weight.then(|| by_weights::<Self>(x, grad, stored, &quantizer)),
                ]
            }
        }
    };
}

products_of_host!(Flex);
#[cfg(feature = "ndarray")]
products_of_host!(NdArray);

/// The product `x W^T`: by the kernel of the packed weights, except of floats in BF16. An error makes the whole result NaN
/// and is reported.
fn product<B: HostBackend>(x: &FloatTensor<B>, stored: &Stored) -> FloatTensor<B> {
    let packed = &stored.packed;
    let (m, n) = (x.shape()[0], packed.matrix().rows());
    let y = B::with_values(x, |x| {
        let precision = Precision::current();
        if precision != Precision::F32 && packed.activation() == ActivationQuant::Float {
            let (weights, cols) = (packed.matrix().unpack().dequantize(), packed.matrix().cols());
            return matmul(precision, Matrix::new(x, m, cols), Matrix::new(&weights, n, cols).transpose());
        }
        let mut y = zeros(m * n);
        let done = linear(x, m, packed.matrix(), &packed.activation(), None, &mut y);
        packed.errors().or_nan(Place::Input, done.map(|()| y), m * n)
    });
    B::from_values(y, &[m, n])
}

fn by_input<B: HostBackend>(
    x: &FloatTensor<B>,
    grad: &FloatTensor<B>,
    stored: &Stored,
    quantizer: &InputQuantizer,
) -> FloatTensor<B> {
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    let n = stored.packed.matrix().rows();
    let weights = stored.packed.matrix().unpack().dequantize();
    let mut through = B::with_values(grad, |grad| {
        matmul(Precision::current(), Matrix::new(grad, rows, n), Matrix::new(&weights, n, cols))
    });
    let by_x = match quantizer {
        InputQuantizer::Float => through,
        InputQuantizer::Rounded(quantizer) => {
            let by_x = B::with_values(x, |x| quantizer.backward(x, &mut through)).map(|()| through);
            stored.packed.errors().or_nan(Place::Gradient, by_x, rows * cols)
        }
        InputQuantizer::NotFinite => vec![f32::NAN; rows * cols],
    };
    B::from_values(by_x, &[rows, cols])
}

fn by_weights<B: HostBackend>(
    x: &FloatTensor<B>,
    grad: &FloatTensor<B>,
    stored: &Stored,
    quantizer: &InputQuantizer,
) -> FloatTensor<B> {
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    let n = stored.packed.matrix().rows();
    let product = |x: &[f32]| {
        B::with_values(grad, |grad| {
            let grad = Matrix::new(grad, rows, n).transpose();
            matmul(Precision::current(), grad, Matrix::new(x, rows, cols))
        })
    };
    let by_weights = match quantizer {
        InputQuantizer::Rounded(quantizer) => {
            let rounded = B::with_values(x, |x| quantizer.forward(x));
            product(&stored.packed.errors().or_nan(Place::Gradient, rounded, rows * cols))
        }
        InputQuantizer::Float | InputQuantizer::NotFinite => B::with_values(x, product),
    };
    B::from_values(by_weights, &[n, cols])
}

/// The grid of an input.
enum InputQuantizer {
    /// The input is not rounded.
    Float,
    Rounded(FakeQuantizer),
    /// The input is not finite, which the forward pass has reported.
    NotFinite,
}

fn input_quantizer<B: HostBackend>(x: &FloatTensor<B>, stored: &Stored) -> InputQuantizer {
    if stored.packed.activation() == ActivationQuant::Float {
        return InputQuantizer::Float;
    }
    let ranges = InputRanges::new(stored.packed.activation().into(), SharedQatStage::default(), None);
    let cols = x.shape()[1];
    B::with_values(x, |x| ranges.fake_quantizer(x, cols, false))
        .map_or_else(|_| InputQuantizer::NotFinite, InputQuantizer::Rounded)
}
