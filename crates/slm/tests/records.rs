//! Burn's records of quantized modules.

mod support;

use burn::module::Module;
use burn::prelude::*;
use burn::store::ModuleRecord;
use slm::prelude::*;
use support::{Recurrent, quantized, quantizers};

#[test]
fn a_record_carries_codes_and_scales() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = Recurrent::new(&device);
    for (name, quantizer) in quantizers() {
        let (packed, _) = quantized(quantizer.clone(), &module, &device);
        let path = root.path().join(format!("{name}.bpk"));
        packed.clone().into_record().save(&path).unwrap();
        // Another module with the same layers and different weights.
        let (other, _) = quantized(quantizer, &Recurrent::new(&device), &device);
        assert_ne!(other.outputs(&device), packed.outputs(&device), "{name}");
        let loaded = other.try_load_record(ModuleRecord::load(&path).unwrap()).unwrap();
        assert_eq!(loaded.outputs(&device), packed.outputs(&device), "{name}");
    }
}

#[test]
fn a_record_of_other_layers_is_an_error() {
    let device = Device::flex();
    let module = Recurrent::new(&device);
    let record = |quantizer: Quantizer| quantizer.convert(module.clone()).unwrap().0.into_record();
    let int8 = || Quantizer::int8();
    // Float layers do not load a record of quantized ones, nor the reverse.
    let error = module.clone().try_load_record(record(int8())).unwrap_err().to_string();
    assert!(error.contains("blocks.0.up.weight.Float"), "{error}");
    let (packed, _) = int8().convert(module.clone()).unwrap();
    let error = packed.clone().try_load_record(module.clone().into_record()).unwrap_err().to_string();
    assert!(error.contains("blocks.0.up.weight.Packed.codes"), "{error}");
    // Codes of another width, a different number of scales, missing zero points.
    for other in [Quantizer::int4().per_channel(), int8().per_tensor(), int8().affine()] {
        let error = packed.clone().try_load_record(record(other)).unwrap_err().to_string();
        assert!(error.contains("blocks.0.up.weight.Packed"), "{error}");
    }
    // The record determines the quantization of the inputs, also where it differs from the module's.
    let loaded = packed.clone().try_load_record(record(int8().weight_only())).unwrap();
    let (expected, _) = int8().weight_only().convert(module).unwrap();
    assert_eq!(loaded.outputs(&device), expected.outputs(&device));
}

#[test]
fn a_record_whose_weights_cannot_be_is_an_error() {
    let device = Device::flex();
    let linear = LinearConfig::new(6, 5).init(1.0, &device);
    let (packed, _) = Quantizer::int8().per_tensor().convert(linear).unwrap();
    let matrix = packed.packed().unwrap().matrix().unpack();
    let bytes = packed.clone().into_record().into_bytes().unwrap();
    // Sets the scale to 0.
    let scale = matrix.scales().get(0).to_le_bytes();
    let at = bytes.windows(4).position(|window| window == scale).unwrap();
    let mut spoiled = bytes.to_vec();
    spoiled[at..at + 4].fill(0);
    let record =
        |bytes: Vec<u8>| ModuleRecord::from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes)).unwrap();
    let error = packed.clone().try_load_record(record(spoiled)).unwrap_err().to_string();
    assert!(error.contains("valid packed weights") && error.contains("scale"), "{error}");
    // Changes the number of columns in the record.
    let format = [1_i32, 6, 8].map(i32::to_le_bytes).concat();
    let at = bytes.windows(12).position(|window| window == format).unwrap();
    let mut spoiled = bytes.to_vec();
    spoiled[at + 4] = 5;
    let error = packed.clone().try_load_record(record(spoiled)).unwrap_err().to_string();
    assert!(error.contains("5 inputs"), "{error}");
    let loaded = packed.clone().try_load_record(record(bytes.to_vec())).unwrap();
    assert_eq!(loaded.packed().unwrap().matrix().unpack(), matrix);
}

#[test]
fn casting_and_devices_leave_codes_alone() {
    let device = Device::flex();
    let module = Recurrent::new(&device);
    let (packed, _) = Quantizer::int8().convert(module).unwrap();
    let expected = packed.outputs(&device);
    assert_eq!(packed.clone().no_grad().fork(&device).to_device(&device).outputs(&device), expected);
    assert_eq!(packed.clone().train().valid().outputs(&device), expected);
    assert!(format!("{packed}").contains("PackedWeight {11x16"), "{packed}");
}

#[test]
fn a_record_of_a_module_in_quantized_training_carries_its_codes() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let tuned = || {
        let (packed, _) = Quantizer::int8().convert(Recurrent::new(&plain)).unwrap();
        FineTune::stochastic(0).prepare(packed, &device).unwrap()
    };
    let ((first, tuning), (second, _)) = (tuned(), tuned());
    let outputs = |module: &Recurrent| tuning.finish(module).unwrap().outputs(&plain);
    assert_ne!(outputs(&first), outputs(&second));
    let loaded = second.try_load_record(first.clone().into_record()).unwrap();
    assert_eq!(outputs(&loaded), outputs(&first));
}
