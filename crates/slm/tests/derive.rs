//! Names that the derive macro generates.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::prelude::*;
use slm::Error;
use slm::nn::{linear_names, unnamed_linears};
use slm::prelude::*;

fn linear() -> Linear {
    LinearConfig::new(4, 4).init(0.1, &Device::flex())
}

#[derive(Module, Debug, NamedLinears)]
struct Attention {
    q: Linear,
    #[linears(rename = "out_proj")]
    o: Linear,
}

#[derive(Module, Debug, NamedLinears)]
#[allow(clippy::large_enum_variant, reason = "Burn has no Module for Box")]
enum Mixer {
    Attention(Attention),
    Plain(Linear),
}

#[derive(Module, Debug, NamedLinears)]
struct Everything<M: Module> {
    embedding: Embedding,
    layers: Vec<Attention>,
    mixers: Vec<Mixer>,
    pair: [Linear; 2],
    both: (Linear, Attention),
    present: Option<Linear>,
    absent: Option<Linear>,
    norm: Option<LayerNorm>,
    heads: usize,
    #[linears(skip)]
    untouched: Option<Linear>,
    inner: M,
    scale: burn::module::Param<Tensor<1>>,
}

fn everything<M: Module>(inner: M) -> Everything<M> {
    let device = Device::flex();
    let attention = || Attention { q: linear(), o: linear() };
    Everything {
        embedding: EmbeddingConfig::new(3, 4).init(&device),
        layers: vec![attention(), attention()],
        mixers: vec![Mixer::Attention(attention()), Mixer::Plain(linear())],
        pair: [linear(), linear()],
        both: (linear(), attention()),
        present: Some(linear()),
        absent: None,
        norm: Some(LayerNormConfig::new(4).init(&device)),
        heads: 2,
        untouched: None,
        inner,
        scale: burn::module::Param::from_data([1.0], &device),
    }
}

#[test]
fn names_are_paths_of_fields() {
    let mut module = everything(vec![linear()]);
    let names = linear_names(&module);
    let expected = [
        "layers.0.q",
        "layers.0.out_proj",
        "layers.1.q",
        "layers.1.out_proj",
        "mixers.0.Attention.q",
        "mixers.0.Attention.out_proj",
        "mixers.1.Plain",
        "pair.0",
        "pair.1",
        "both.0",
        "both.1.q",
        "both.1.out_proj",
        "present",
        "inner.0",
    ];
    assert_eq!(names, expected);
    let mut mutable = Vec::new();
    module.for_each_linear_mut(&mut |name, _| mutable.push(name.to_owned()));
    assert_eq!(mutable, names);
    assert!(unnamed_linears(&module).is_empty());
}

#[test]
fn a_linear_that_is_not_named_is_an_error() {
    let mut module = everything(linear());
    module.untouched = Some(linear());
    assert_eq!(unnamed_linears(&module), ["untouched"]);
    let error = Quantizer::int8().convert(module.clone()).unwrap_err();
    assert!(matches!(&error, Error::Unnamed { path } if path == "untouched"), "{error}");
    let root = tempfile::tempdir().unwrap();
    let error = slm::save(&module, root.path().join("out")).unwrap_err();
    assert!(error.to_string().starts_with("untouched: "), "{error}");
    assert!(!root.path().join("out").exists());

    // A type that forgets to derive the trait, and a tuple that holds something else.
    #[derive(Module, Debug)]
    struct Forgotten {
        inside: Linear,
    }
    #[derive(Module, Debug, NamedLinears)]
    struct Outer {
        named: Linear,
        forgotten: Vec<Forgotten>,
        mixed: (Linear, LayerNorm),
    }
    let norm = LayerNormConfig::new(4).init(&Device::flex());
    let outer =
        Outer { named: linear(), forgotten: vec![Forgotten { inside: linear() }], mixed: (linear(), norm) };
    assert_eq!(linear_names(&outer), ["named"]);
    assert_eq!(unnamed_linears(&outer), ["forgotten.0.inside", "mixed.0"]);
    // The check finds quantized layers too.
    let mut packed = outer.clone();
    let (quantized, _) = Quantizer::int8().convert(everything(linear())).unwrap();
    packed.mixed.0 = quantized.inner;
    assert_eq!(unnamed_linears(&packed), ["forgotten.0.inside", "mixed.0"]);
}

/// A clone shares the parameter ids of the original.
#[test]
fn an_unnamed_clone_of_a_named_layer_is_an_error() {
    #[derive(Module, Debug)]
    struct Forgotten {
        inside: Linear,
    }
    #[derive(Module, Debug, NamedLinears)]
    struct Outer {
        forgotten: Forgotten,
        first: Linear,
        second: Linear,
    }
    let layer = linear();
    let outer =
        |inside| Outer { forgotten: Forgotten { inside }, first: layer.clone(), second: layer.clone() };
    for outer in [outer(layer.clone()), outer(linear())] {
        assert_eq!(unnamed_linears(&outer), ["forgotten.inside"]);
        let error = Quantizer::int8().convert(outer).unwrap_err();
        assert!(matches!(&error, Error::Unnamed { path } if path == "forgotten.inside"), "{error}");
    }
    let named = vec![layer.clone(), layer.clone(), layer];
    assert!(unnamed_linears(&named).is_empty());
}

#[test]
fn linears_of_burn_convert_exactly_and_back() {
    use burn::nn::{LinearConfig as BurnConfig, LinearLayout};
    let device = Device::flex().autodiff();
    for layout in [LinearLayout::Row, LinearLayout::Col] {
        let burns = BurnConfig::new(5, 3).with_layout(layout).init(&device);
        let ours = Linear::from(burns.clone());
        assert_eq!((ours.in_features(), ours.out_features()), (5, 3));
        let weight = ours.float_weight().unwrap();
        assert_eq!(weight.clone().transpose().into_data(), burns.weight.val().into_data());
        assert!(weight.is_require_grad());
        let x = Tensor::<2>::random([7, 5], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
        let difference = (ours.forward(x.clone()) - burns.forward(x)).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
        let back = burn::nn::Linear::try_from(ours).unwrap();
        assert_eq!(back.weight.val().into_data(), burns.weight.val().into_data());
        assert_eq!(back.weight.id, burns.weight.id);
        assert_eq!(back.bias.unwrap().val().into_data(), burns.bias.unwrap().val().into_data());
    }
    let (packed, _) = Quantizer::int8().convert(linear()).unwrap();
    assert!(burn::nn::Linear::try_from(packed).is_err());
}
