//! Tests of what is kept of an input.

use burn::backend::Flex;

use super::*;
use crate::precision::Precision;

type Floats = FloatTensor<Flex>;

const SHAPE: [usize; 2] = [6, 40];

fn floats(seed: usize, shape: &[usize]) -> Floats {
    let count = shape.iter().product();
    Flex::from_values((0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect(), shape)
}

fn stored(seed: usize, precision: Precision) -> Stored<Flex> {
    Stored::new(floats(seed, &SHAPE), precision)
}

fn recipes() -> Vec<Recipe<Flex>> {
    let [f32, bf16] = [Precision::F32, Precision::Bf16];
    let [weight, bias] = [1, 2].map(|seed| floats(seed, &[40]));
    vec![
        Recipe::RmsNorm { x: floats(3, &SHAPE), weight: weight.clone(), eps: 1e-5 },
        Recipe::LayerNorm { x: floats(4, &SHAPE), weight, bias, eps: 1e-5 },
        Recipe::Swiglu { gate: stored(5, f32), up: stored(6, f32) },
        Recipe::Swiglu { gate: stored(5, bf16), up: stored(6, bf16) },
        Recipe::Gelu { x: stored(7, f32), kind: Gelu::Exact },
        Recipe::Gelu { x: stored(8, bf16), kind: Gelu::Tanh },
        Recipe::Stored(stored(9, f32)),
        Recipe::Stored(stored(9, bf16)),
    ]
}

fn reshaped<B: HostBackend>(tensor: FloatTensor<B>, shape: [usize; 3]) -> FloatTensor<B> {
    B::float_reshape(tensor, Shape::from(shape))
}

fn bits(tensor: &Floats) -> Vec<u32> {
    Flex::values(tensor).iter().map(|value| value.to_bits()).collect()
}

fn is_recipe(kept: &KeptInput<Flex>) -> bool {
    matches!(kept.0, Kept::Recipe(..))
}

#[test]
fn outputs_are_computed_again_with_the_same_bits_and_in_the_shape_of_the_input() {
    for recipe in recipes() {
        let output = recipe.compute_and_remember();
        let input = reshaped::<Flex>(output.clone(), [3, 2, 40]);
        let kept = KeptInput::<Flex>::new(input);
        assert!(is_recipe(&kept));
        assert_eq!(dims(&kept.tensor()), [3, 2, 40]);
        assert_eq!(bits(&kept.tensor()), bits(&output));
    }
}

#[test]
fn layers_with_the_same_input_share_how_it_is_computed() {
    for recipe in recipes() {
        let output = recipe.compute_and_remember();
        for _ in 0..2 {
            let kept = KeptInput::<Flex>::new(output.clone());
            assert!(is_recipe(&kept));
            assert_eq!(bits(&kept.tensor()), bits(&output));
        }
    }
}

#[test]
fn functions_of_stored_values_are_those_of_the_rounded_values() {
    let [f32, bf16] = [Precision::F32, Precision::Bf16];
    let rounded = |seed| Stored::<Flex>::new(stored(seed, bf16).into_tensor(), f32);
    assert!(bits(&rounded(5).tensor()) != bits(&stored(5, f32).tensor()));
    for (of_bf16, of_f32) in [
        (
            Recipe::Swiglu { gate: stored(5, bf16), up: stored(6, bf16) },
            Recipe::Swiglu { gate: rounded(5), up: rounded(6) },
        ),
        (
            Recipe::Gelu { x: stored(7, bf16), kind: Gelu::Exact },
            Recipe::Gelu { x: rounded(7), kind: Gelu::Exact },
        ),
    ] {
        assert_eq!(bits(&of_bf16.compute()), bits(&of_f32.compute()));
    }
}

#[test]
fn only_the_remembered_output_itself_is_computed_again() {
    let [first, last] = [0, 2].map(|index| recipes().swap_remove(index));
    let old = first.compute_and_remember();
    let output = last.compute_and_remember();
    let copy = Flex::from_values(Flex::values(&output).to_vec(), &SHAPE);
    let part = Flex::from_values(Flex::values(&output)[..40].to_vec(), &[1, 40]);
    // Writing moves it to other memory, since the output is remembered.
    let mut written = Flex::own(output.clone());
    Flex::owned_mut(&mut written)[7] += 1.0;
    for other in [old, copy, part, written] {
        let kept = KeptInput::<Flex>::new(other.clone());
        assert!(!is_recipe(&kept));
        assert_eq!(bits(&kept.tensor()), bits(&other));
    }
    assert!(is_recipe(&KeptInput::<Flex>::new(output)));
}
