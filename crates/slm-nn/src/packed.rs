//! Packed integer weights inside a [`Linear`](crate::Linear), and the ways in which a device multiplies by them.

use std::fmt;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_quant_core::ActivationQuant;

use crate::errors::Reporter;
use crate::linear::add_bias;
use crate::on_cpu;
use crate::ops::packed_linear;
use device_weights::DeviceWeights;

mod device_weights;
mod lookup;
mod record;

/// The arithmetic by which a device computes a packed linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightExecution {
    /// An integer kernel on the CPU (with [`ActivationQuant::Float`], a float kernel that reads integers).
    Kernel(KernelKind),
    /// Tensor operations: codes stay packed in device memory and are unpacked to exact floats there. The sums of
    /// products are 32-bit floats. Used where no integer kernel exists, and for gradients.
    TensorOps,
}

impl fmt::Display for WeightExecution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(kernel) => write!(f, "{kernel}"),
            Self::TensorOps => f.write_str("tensor-ops"),
        }
    }
}

/// Packed integer weights `[out_features, in_features]` and how their input is quantized.
///
/// Burn's records of a module that holds them carry their codes, scales and zero points. Loading one needs a module
/// whose layers are packed with the same shapes.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    matrix: Arc<PackedMatrix>,
    activation: ActivationQuant,
    /// The codes in the layout of the first device that is not a CPU, uploaded at first use.
    uploaded: Arc<OnceLock<DeviceWeights>>,
    ids: record::Ids,
    errors: Reporter,
}

impl PackedWeight {
    /// Packed weights whose input is quantized as `activation` says.
    pub fn new(matrix: Arc<PackedMatrix>, activation: ActivationQuant) -> Self {
        Self {
            matrix,
            activation,
            uploaded: Arc::default(),
            ids: record::Ids::default(),
            errors: Reporter::default(),
        }
    }

    /// The same layer with other codes.
    pub(crate) fn with_matrix(&self, matrix: Arc<PackedMatrix>) -> Self {
        Self { ids: self.ids, errors: self.errors.clone(), ..Self::new(matrix, self.activation) }
    }

    pub(crate) fn set_reporter(&mut self, errors: Reporter) {
        self.errors = errors;
    }

    pub(crate) fn errors(&self) -> &Reporter {
        &self.errors
    }

    /// The packed matrix.
    pub fn matrix(&self) -> &Arc<PackedMatrix> {
        &self.matrix
    }

    /// Quantization of the input.
    pub fn activation(&self) -> ActivationQuant {
        self.activation
    }

    /// The arithmetic by which `device` computes this layer.
    pub fn execution(&self, device: &Device) -> WeightExecution {
        if on_cpu(device) && !device.is_autodiff() {
            WeightExecution::Kernel(self.matrix.kernel())
        } else {
            WeightExecution::TensorOps
        }
    }

    /// `x W^T + bias` for `[rows, in_features]` input.
    pub(crate) fn forward(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let device = x.device();
        match self.execution(&device) {
            WeightExecution::Kernel(_) => {
                let matrix = Arc::clone(&self.matrix);
                add_bias(packed_linear(x, matrix, self.activation, self.errors.clone()), bias)
            }
            WeightExecution::TensorOps => self.on_device(&device).forward(x, bias, self.activation),
        }
    }

    /// The codes in the memory of `device`. They are uploaded once for the first device, and at every call for others.
    pub(crate) fn on_device(&self, device: &Device) -> DeviceWeights {
        let kept = self.uploaded.get_or_init(|| DeviceWeights::upload(&self.matrix, device));
        if kept.device() == device { kept.clone() } else { DeviceWeights::upload(&self.matrix, device) }
    }
}
