//! Tests of the choice of layers.

use burn::tensor::Device;
use slm_model::ModelConfig;

use super::*;

#[test]
fn layers_are_kept_as_long_as_their_values_fit_into_the_gradients() {
    let config = ModelConfig::new(100, 64, 128, 6, 4, 2048);
    let model = Transformer::new(&config, 1, &Device::flex()).unwrap();
    let gradients = 6 * (4 * 64 * 64 + 3 * 64 * 128);
    for (precision, bytes) in [(Precision::F32, 4), (Precision::Bf16, 2)] {
        // Two states, the input of o_proj, and the outputs of the layers that read norms.
        let values = 4 * 2 * 64 + bytes * (64 + (3 * 64 + 2 * 128));
        for positions in [1, 100, 200, 500, 1000, 5000] {
            for logits in [0, 1000] {
                let room = 4 * (gradients - 2 * logits.min(positions * 100));
                let expected = (room / positions / values).min(6);
                let found = kept_layers(&model, positions, logits, precision);
                assert_eq!(found, expected, "{positions} positions, {logits}, {precision:?}");
            }
        }
        assert_eq!(kept_layers(&model, 1, usize::MAX, precision), 6);
        assert_eq!(kept_layers(&model, 1000, usize::MAX, precision), 0);
    }
}
