//! Products with codes in the memory of a GPU, by tensor operations.
//!
//! The codes stay packed there; float weights exist only while one product is computed.

use burn::backend::tensor::FloatTensor;
use burn::backend::{BackendTensor, Cube, DispatchKindConversion, DispatchTensor};
use burn::tensor::Tensor;

use super::Stored;
use super::ops::CodeProducts;
use crate::SharedQatStage;
use crate::activation::InputRanges;
use crate::fake_quant::device::round_input;

impl CodeProducts for Cube {
    type Kept = FloatTensor<Self>;

    fn keep(x: FloatTensor<Self>) -> Self::Kept {
        x
    }

    fn kept(x: &Self::Kept) -> FloatTensor<Self> {
        x.clone()
    }

    fn product(x: &FloatTensor<Self>, stored: &Stored) -> FloatTensor<Self> {
        primitive(stored.packed.forward(tensor(x), None))
    }

    fn gradients(
        x: &FloatTensor<Self>,
        grad: &FloatTensor<Self>,
        stored: &Stored,
        [by_x, by_weight]: [bool; 2],
    ) -> [Option<FloatTensor<Self>>; 2] {
        let (x, grad) = (tensor(x), tensor(grad));
        let ranges = InputRanges::new(stored.packed.activation().into(), SharedQatStage::default(), None);
        let rounded = round_input(&x, &ranges);
        let by_x = by_x.then(|| {
            let weights = stored.packed.on_device(&x.device()).dequantize();
            let through = grad.clone().matmul(weights);
            primitive(match &rounded {
                Some(rounded) => through * rounded.inside.clone(),
                None => through,
            })
        });
        let by_weight = by_weight.then(|| {
            let x = rounded.map_or(x, |rounded| rounded.value);
            primitive(grad.transpose().matmul(x))
        });
        [by_x, by_weight]
    }
}

fn tensor(primitive: &FloatTensor<Cube>) -> Tensor<2> {
    Tensor::from_dispatch(DispatchTensor::from_backend(BackendTensor::<Cube>::Float(primitive.clone())))
}

fn primitive(tensor: Tensor<2>) -> FloatTensor<Cube> {
    let tensor: Result<BackendTensor<Cube>, String> =
        DispatchTensor::try_into_backend(tensor.into_dispatch());
    match tensor {
        Ok(tensor) => tensor.float(),
        // It was made of tensors of this backend.
        Err(error) => panic!("a product with codes: {error}"),
    }
}
