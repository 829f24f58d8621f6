//! Linear layers on slices of host memory, without tensors.
//!
//! A tensor operation costs an allocation and a dispatch. With one row of input that is more than the product itself in
//! a small layer. Here the caller owns the outputs, inputs are quantized once for all layers that read them, and the
//! products of these layers run in parallel.

use burn::tensor::{Device, Tensor, TensorData};
use slm_autograd::{HostHalves, HostTensor};
use slm_kernels::{
    FloatMatrix, FloatValues, KernelKind, LinearInput, MatmulTask, QuantizedActivations, Workspace,
    linear_many, quantize_activations_into,
};
use slm_quant_core::{ActivationGranularity, ActivationQuant};

use crate::errors::Place;
use crate::{Error, Linear, PackedWeight, Result, Weight, to_vec_f32};

/// A [`Linear`] that is ready to be applied to slices.
#[derive(Debug)]
pub struct CpuLinear<'a> {
    linear: &'a Linear,
    bias: Option<Vec<f32>>,
    /// Float weights.
    floats: Option<Floats>,
    device: Device,
}

/// Float weights in place.
#[derive(Debug)]
enum Floats {
    Full(HostTensor),
    Half(HostHalves),
}

impl Floats {
    fn new(weight: &Tensor<2>) -> Option<Self> {
        let full = HostTensor::new(weight.clone()).map(Self::Full);
        full.or_else(|| HostHalves::new(weight.clone()).map(Self::Half))
    }

    fn values(&self) -> FloatValues<'_> {
        match self {
            Self::Full(values) => FloatValues::F32(values.values()),
            Self::Half(values) => values.values(),
        }
    }
}

/// The path by which a layer is computed. Layers with equal routes may run in one parallel region.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Route {
    /// A kernel of `slm-kernels`, on quantized weights.
    Packed(ActivationQuant),
    /// A kernel on float weights.
    Float,
    /// Tensor operations, which hooks see.
    Tensors,
}

impl<'a> CpuLinear<'a> {
    /// Prepares `linear`, whose float parameters are on `device`. Weights are not copied.
    ///
    /// # Errors
    /// [`Error::Data`] when the bias cannot be read.
    pub fn new(linear: &'a Linear, device: &Device) -> Result<Self> {
        let bias = linear.bias.as_ref().map(|bias| to_vec_f32("bias", bias.val())).transpose()?;
        let floats = match &linear.weight {
            Weight::Float(weight) => Floats::new(&weight.val()),
            _ => None,
        };
        Ok(Self { linear, bias, floats, device: device.clone() })
    }

    /// Number of input features.
    pub fn in_features(&self) -> usize {
        self.linear.in_features()
    }

    /// Number of output features.
    pub fn out_features(&self) -> usize {
        self.linear.out_features()
    }

    /// Returns `true` if each row of output depends only on its own row of input and no hook is attached, so that rows
    /// may be split into several calls without changing the result. Always `false` for fake-quantized and trainable
    /// quantized layers.
    pub fn rows_are_independent(&self) -> bool {
        match &self.linear.weight {
            _ if self.linear.has_hook() => false,
            Weight::Float(_) => true,
            Weight::FakeQuantized(_) | Weight::QuantizedTrainable(_) => false,
            Weight::Packed(weight) => {
                weight.activation() != ActivationQuant::Dynamic(ActivationGranularity::PerTensor)
            }
        }
    }

    fn route(&self) -> Route {
        match (self.kernel_weight(), &self.floats) {
            (Some(weight), _) => Route::Packed(weight.activation()),
            (None, Some(_)) => Route::Float,
            _ => Route::Tensors,
        }
    }

    /// The task for the product with float weights.
    fn float_task<'o>(&'o self, out: &'o mut [f32]) -> Result<MatmulTask<'o>> {
        let values = self.floats.as_ref().map_or(FloatValues::F32(&[]), Floats::values);
        let kernel = KernelKind::selected();
        let weights = FloatMatrix::new(values, self.out_features(), self.in_features(), kernel)?;
        Ok(MatmulTask::new(weights, self.bias.as_deref(), out))
    }

    /// The packed weights, if no hook must see the call; `None` otherwise.
    fn kernel_weight(&self) -> Option<&'a PackedWeight> {
        self.linear.packed().filter(|_| !self.linear.has_hook())
    }

    /// Calls the hook, if there is one, with input and output.
    fn call_hook(&self, x: &[f32], rows: usize, out: &[f32]) {
        if let Some(hook) = self.linear.hook() {
            let tensor = |values: &[f32], width: usize| {
                Tensor::from_data(TensorData::new(values.to_vec(), [rows, width]), &self.device)
            };
            hook.call(&tensor(x, self.in_features()), &tensor(out, self.out_features()));
        }
    }

    /// Applies the layer by tensor operations, which hooks see.
    fn apply_tensors(&self, x: &[f32], rows: usize, out: &mut [f32]) -> Result<()> {
        let data = TensorData::new(x.to_vec(), [rows, self.in_features()]);
        let y = self.linear.forward(Tensor::<2>::from_data(data, &self.device)).into_data();
        let y = y
            .as_slice::<f32>()
            .map_err(|error| Error::Data { what: "output", detail: format!("{error:?}") })?;
        out.copy_from_slice(y);
        Ok(())
    }
}

/// A layer and the destination of its output.
#[derive(Debug)]
pub struct CpuOutput<'a, 'b> {
    /// The layer.
    pub layer: &'a CpuLinear<'b>,
    /// `[rows, out_features]`.
    pub out: &'a mut [f32],
}

/// Working memory that [`apply_linears`] reuses from call to call.
#[derive(Debug)]
pub struct CpuScratch {
    quantized: QuantizedActivations,
    workspace: Workspace,
}

impl Default for CpuScratch {
    fn default() -> Self {
        Self { quantized: QuantizedActivations::empty(), workspace: Workspace::new() }
    }
}

/// Applies several layers to one input.
///
/// Packed and float layers run on the kernels of `slm-kernels`; those that quantize their input in the same way share
/// the quantized input and run in one parallel region. Other layers, and packed ones with a hook, run as tensor
/// operations. As with tensors, an input that is not finite makes a packed layer's whole output NaN, and is
/// [reported](crate::report_errors).
///
/// # Shapes
/// - `x`: `[rows, in_features]`
///
/// # Errors
/// [`Error::Shape`] when a length does not fit, and [`Error::Data`] when a tensor cannot be read.
pub fn apply_linears(
    x: &[f32],
    rows: usize,
    outputs: &mut [CpuOutput<'_, '_>],
    scratch: &mut CpuScratch,
) -> Result<()> {
    for CpuOutput { layer, out } in outputs.iter() {
        check("input", rows * layer.in_features(), x.len())?;
        check("output", rows * layer.out_features(), out.len())?;
    }
    let mut at = 0;
    while at < outputs.len() {
        let shared = outputs[at].layer.route();
        let alike = outputs[at..].iter().take_while(|output| output.layer.route() == shared).count();
        let run = &mut outputs[at..at + alike];
        match shared {
            Route::Packed(activation) => apply_packed(x, rows, activation, run, scratch)?,
            Route::Float => {
                let tasks = run.iter_mut().map(|output| output.layer.float_task(output.out));
                let mut tasks = tasks.collect::<Result<Vec<_>>>()?;
                linear_many(LinearInput::Float(x, rows), &mut tasks, &mut scratch.workspace)?;
                run.iter().for_each(|output| output.layer.call_hook(x, rows, output.out));
            }
            Route::Tensors => {
                run.iter_mut().try_for_each(|output| output.layer.apply_tensors(x, rows, output.out))?;
            }
        }
        at += alike;
    }
    Ok(())
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<()> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Shape { what, expected: vec![expected], found: vec![found] }),
    }
}

fn apply_packed(
    x: &[f32],
    rows: usize,
    activation: ActivationQuant,
    outputs: &mut [CpuOutput<'_, '_>],
    CpuScratch { quantized, workspace }: &mut CpuScratch,
) -> Result<()> {
    let products = outputs.iter_mut().filter_map(|CpuOutput { layer, out }| {
        Some(MatmulTask::new(&**layer.kernel_weight()?.matrix(), layer.bias.as_deref(), out))
    });
    let mut products: Vec<MatmulTask<'_>> = products.collect();
    let result = match activation {
        ActivationQuant::Float => linear_many(LinearInput::Float(x, rows), &mut products, workspace),
        _ => quantize_activations_into(x, rows, x.len() / rows.max(1), &activation, quantized)
            .and_then(|()| linear_many(LinearInput::Quantized(quantized), &mut products, workspace)),
    };
    match result {
        Err(error @ slm_quant_core::Error::NotFinite { .. }) => {
            if let Some(weight) = outputs.first().and_then(|output| output.layer.kernel_weight()) {
                weight.errors().report(Place::Input, error);
            }
            outputs.iter_mut().for_each(|output| output.out.fill(f32::NAN));
            Ok(())
        }
        result => Ok(result?),
    }
}
