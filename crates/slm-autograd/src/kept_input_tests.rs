//! Tests of what is kept of an input.

use burn::backend::Flex;

use super::*;

type Floats = FloatTensor<Flex>;

const SHAPE: [usize; 2] = [6, 40];

fn floats(seed: usize, shape: &[usize]) -> Floats {
    let count = shape.iter().product();
    Flex::from_values((0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect(), shape)
}

fn recipes() -> [Recipe<Flex>; 5] {
    let [weight, bias] = [1, 2].map(|seed| floats(seed, &[40]));
    [
        Recipe::RmsNorm { x: floats(3, &SHAPE), weight: weight.clone(), eps: 1e-5 },
        Recipe::LayerNorm { x: floats(4, &SHAPE), weight, bias, eps: 1e-5 },
        Recipe::Swiglu { gate: floats(5, &SHAPE), up: floats(6, &SHAPE) },
        Recipe::Gelu { x: floats(7, &SHAPE), kind: Gelu::Exact },
        Recipe::Gelu { x: floats(8, &SHAPE), kind: Gelu::Tanh },
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
fn layers_after_a_norm_share_it_and_the_memory_of_an_activation_is_free() {
    for recipe in recipes() {
        let shared = recipe.is_shared();
        let output = recipe.compute_and_remember();
        assert!(is_recipe(&KeptInput::<Flex>::new(output.clone())));
        let second = KeptInput::<Flex>::new(output.clone());
        assert_eq!(is_recipe(&second), shared);
        assert_eq!(bits(&second.tensor()), bits(&output));
    }
    let (gate, up) = (floats(9, &SHAPE), floats(10, &SHAPE));
    let addresses = [&gate, &up].map(|tensor| Flex::values(tensor).as_ptr());
    let output = Recipe::<Flex>::Swiglu { gate: gate.clone(), up: up.clone() }.compute_and_remember();
    drop(KeptInput::<Flex>::new(output));
    // What nothing else shares is not copied when it is written to.
    assert_eq!([gate, up].map(|tensor| Flex::values(&Flex::own(tensor)).as_ptr()), addresses);
}

#[test]
fn only_the_remembered_output_itself_is_computed_again() {
    let [first, .., last] = recipes();
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
