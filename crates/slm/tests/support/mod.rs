//! Modules of every kind to save and load.
#![allow(dead_code)] // Each test binary uses its own part.

use burn::module::{Module, Param};
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::prelude::*;
use slm::prelude::*;

/// A recurrent model with nested, optional, integer and boolean parts.
#[derive(Module, Debug, NamedLinears)]
pub(crate) struct Recurrent {
    embedding: Embedding,
    gru: Gru,
    blocks: Vec<Block>,
    order: Param<Tensor<1, Int>>,
    keep: Param<Tensor<1, Bool>>,
    head: Option<Linear>,
}

#[derive(Module, Debug, NamedLinears)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
}

impl Recurrent {
    pub(crate) fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| burn::nn::LinearConfig::new(inputs, outputs).init(device).into();
        let block = |gated: bool| Block {
            norm: LayerNormConfig::new(16).init(device),
            up: linear(16, 24),
            gate: gated.then(|| linear(16, 24)),
            down: linear(24, 16),
        };
        let mut shuffled: Vec<i64> = (0..16).collect();
        shuffled.rotate_left(3);
        let order = Tensor::from_data(TensorData::new(shuffled, [16]), device);
        let kept: Vec<bool> = (0..16).map(|index| index % 5 != 0).collect();
        let keep = Tensor::from_data(TensorData::new(kept, [16]), device);
        Self {
            embedding: EmbeddingConfig::new(11, 16).init(device),
            gru: GruConfig::new(16, 16, true).init(device),
            blocks: vec![block(true), block(false)],
            order: Param::initialized(burn::module::ParamId::new(), order),
            keep: Param::initialized(burn::module::ParamId::new(), keep),
            head: Some(linear(16, 11)),
        }
    }

    /// Maps ids of shape `[2, 5]` to logits of shape `[2, 5, 11]`.
    pub(crate) fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let mut x = self.gru.forward(self.embedding.forward(ids), None);
        for Block { norm, up, gate, down } in &self.blocks {
            let h = norm.forward(x.clone());
            let u = up.forward(h.clone()).tanh();
            let u = match gate {
                Some(gate) => u * gate.forward(h),
                None => u,
            };
            x = x + down.forward(u);
        }
        let x = x.select(2, self.order.val());
        let x = x * self.keep.val().float().reshape([1, 1, 16]);
        match &self.head {
            Some(head) => head.forward(x),
            None => x,
        }
    }

    pub(crate) fn outputs(&self, device: &Device) -> TensorData {
        let ids: Vec<i64> = (0..10).map(|index| index * 7 % 11).collect();
        self.forward(Tensor::from_data(TensorData::new(ids, [2, 5]), device)).into_data()
    }
}

/// Every kind of quantization.
pub(crate) fn quantizers() -> Vec<(&'static str, Quantizer)> {
    vec![
        ("int8", Quantizer::int8()),
        ("int8 tensor", Quantizer::int8().per_tensor()),
        ("int8 affine", Quantizer::int8().affine().f16_scales()),
        ("int8 static", Quantizer::int8().static_activations()),
        ("int8 weight-only", Quantizer::int8().weight_only()),
        ("int4", Quantizer::int4().group(8)),
        // An odd group size, and one that does not divide the width.
        ("int4 affine", Quantizer::int4().group(7).affine().f16_scales()),
        ("int4 static", Quantizer::int4().per_channel().static_activations().skip("head")),
    ]
}

pub(crate) fn quantized(quantizer: Quantizer, module: &Recurrent, device: &Device) -> (Recurrent, Report) {
    let is_static = quantizer.config().quantization_type == slm::quant::QuantizationType::Static;
    let quantizer = match is_static {
        true => quantizer.calibrate(&mut module.clone(), |module| drop(module.outputs(device))).unwrap(),
        false => quantizer,
    };
    quantizer.convert(module.clone()).unwrap()
}
