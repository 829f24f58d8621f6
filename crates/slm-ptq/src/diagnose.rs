//! Diagnosis of quantized activations: their share of an error, and the layers with the largest errors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use slm_nn::{
    ForwardHook, NamedLinears, PackedWeight, Weight, attach_hook, detach_hooks, fake_quantize_activation,
    to_vec_f32,
};
use slm_quant_core::ActivationQuant;

use crate::{Error, Result};

/// Quantization of the input of each packed layer, by name.
pub type ActivationQuants = BTreeMap<String, ActivationQuant>;

/// Makes every packed layer of `model` weight-only, and returns the previous treatment of inputs. Weights are shared,
/// not copied.
pub fn remove_activation_quant<M: NamedLinears + ?Sized>(model: &mut M) -> ActivationQuants {
    let mut removed = ActivationQuants::new();
    model.for_each_linear_mut(&mut |name, linear| {
        if let Weight::Packed(weight) = &mut linear.weight
            && weight.activation() != ActivationQuant::Float
        {
            removed.insert(name.to_owned(), weight.activation());
            *weight = PackedWeight::new(Arc::clone(weight.matrix()), ActivationQuant::Float);
        }
    });
    removed
}

/// The error that quantization adds to the input of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct InputError {
    /// Name of the layer.
    pub layer: String,
    /// Mean over all input rows x of `|x - x'| / |x|`, where x' is the quantized row; a row of zeros counts 0. Near 1,
    /// most rows are lost entirely.
    pub relative_error: f64,
}

/// Measures the errors that `quants` would make in the inputs of the layers while `forward` runs the model. Returns the
/// layer with the largest error first.
///
/// Every row counts the same, however large its values. The error of a whole tensor would be that of its few largest
/// rows, and would hide the errors of the others.
///
/// # Errors
/// [`Error::Layer`] for inputs that cannot be read, and whatever `forward` returns.
pub fn input_errors<M: NamedLinears, E: From<Error>>(
    model: &mut M,
    quants: &ActivationQuants,
    forward: impl FnOnce(&M) -> Result<(), E>,
) -> Result<Vec<InputError>, E> {
    let hook = Arc::new(InputErrors { quants: quants.clone(), sums: Mutex::new(Ok(BTreeMap::new())) });
    attach_hook(model, &(Arc::clone(&hook) as Arc<dyn ForwardHook>));
    let outcome = forward(model);
    detach_hooks(model);
    outcome?;
    let mut sums = hook.sums.lock().unwrap_or_else(PoisonError::into_inner);
    let sums = std::mem::replace(&mut *sums, Ok(BTreeMap::new()))?;
    let errors = sums
        .into_iter()
        .map(|(layer, (sum, rows))| InputError { layer, relative_error: sum / rows.max(1) as f64 });
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by(|a, b| b.relative_error.total_cmp(&a.relative_error));
    Ok(errors)
}

struct InputErrors {
    quants: ActivationQuants,
    /// Sum of relative errors and number of rows, by layer; or the first error, which a hook cannot return.
    sums: Mutex<Result<BTreeMap<String, (f64, usize)>>>,
}

impl ForwardHook for InputErrors {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        let Some(&quant) = self.quants.get(layer) else { return };
        let mut guard = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(sums) = &mut *guard else { return };
        let [rows, cols] = input.dims();
        let read = to_vec_f32("input", input.clone()).and_then(|exact| {
            let quantized = fake_quantize_activation(input.clone(), quant);
            Ok((exact, to_vec_f32("quantized input", quantized)?))
        });
        match read {
            Ok((exact, quantized)) => {
                let rows_of = exact.chunks_exact(cols.max(1)).zip(quantized.chunks_exact(cols.max(1)));
                let sum: f64 = rows_of.map(|(x, quantized)| relative_error(x, quantized)).sum();
                let entry = sums.entry(layer.to_owned()).or_default();
                *entry = (entry.0 + sum, entry.1 + rows);
            }
            Err(error) => *guard = Err(Error::layer(layer, error)),
        }
    }
}

fn relative_error(x: &[f32], quantized: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value).powi(2);
    let signal: f64 = x.iter().map(|&x| square(x)).sum();
    let noise: f64 = x.iter().zip(quantized).map(|(&x, &q)| square(x - q)).sum();
    if signal > 0.0 { (noise / signal).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use slm_nn::Linear;
    use slm_quant_core::{
        ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QParams, QuantScheme,
        QuantizationType, ScaleDtype,
    };

    use super::*;
    use crate::{DynamicInputs, Plan, PtqConfig, calibrate, convert};

    struct Two([Linear; 2]);

    impl NamedLinears for Two {
        fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
            self.0.iter().zip(["a", "b"]).for_each(|(linear, name)| visit(name, linear));
        }

        fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
            self.0.iter_mut().zip(["a", "b"]).for_each(|(linear, name)| visit(name, linear));
        }
    }

    impl Two {
        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            self.0[1].forward(self.0[0].forward(x))
        }
    }

    /// The first layer passes its input on; the second scales it.
    fn model(device: &Device) -> Two {
        let diagonal = |value: f32| {
            let weight = Tensor::<2>::from_data([[value, 0.0], [0.0, value]], device);
            Linear::from_weight(weight, None).unwrap()
        };
        Two([diagonal(1.0), diagonal(2.0)])
    }

    #[test]
    fn a_row_that_one_scale_rounds_away_counts_in_full() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1000.0, -1000.0], [0.5, 0.25], [0.0, 0.0]], &device);
        let scheme = QuantScheme {
            bits: Bits::Int8,
            granularity: Granularity::PerTensor,
            mapping: Mapping::default(),
            scale_dtype: ScaleDtype::F32,
        };
        let mut config = PtqConfig::new(scheme, QuantizationType::Static);
        config.activation_observer = ObserverKind::MinMax;
        config.dynamic_inputs = DynamicInputs::None;
        let mut model = model(&device);
        let plan = Plan::new(&model, &config).unwrap();
        let calibration = calibrate(&mut model, &plan, &config, |model| {
            model.forward(x.clone());
            Ok::<_, Error>(())
        })
        .unwrap();
        convert(&mut model, &plan, &config, Some(&calibration), &mut |_| {}).unwrap();
        let quants = remove_activation_quant(&mut model);
        assert_eq!(quants.len(), 2);
        assert!(matches!(quants["a"], ActivationQuant::Static(QParams { scale, .. }) if scale > 7.0));
        assert!(remove_activation_quant(&mut model).is_empty());

        let run = |quants: &ActivationQuants, model: &mut Two| {
            input_errors(model, quants, |model| {
                model.forward(x.clone());
                Ok::<_, Error>(())
            })
            .unwrap()
        };
        // The second of three rows is rounded to zero, and the third has nothing to lose.
        let errors = run(&quants, &mut model);
        assert_eq!(errors.len(), 2);
        for error in &errors {
            assert!((error.relative_error - 1.0 / 3.0).abs() < 2e-3, "{error:?}");
        }
        // With one scale per row almost nothing is lost.
        let per_token = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
        let errors = run(&quants.keys().map(|name| (name.clone(), per_token)).collect(), &mut model);
        assert!(errors[0].relative_error < 5e-3, "{errors:?}");
    }
}
