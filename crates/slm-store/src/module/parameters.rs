//! The parameters of a module, by their names in a file.
//!
//! Layers are stored by the names that [`NamedLinears`] gives them; other parameters by their path in Burn.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, DType, Float, Int, Tensor, TensorData};
use slm_nn::{Linear, ModulePlace, NamedLinears, Weight, try_for_each_linear, unnamed_linears};

use super::dtype;
use crate::layer::{QuantizedForm, names};
use crate::{Error, LoadedTensors, Result, TensorSpec};

/// A tensor of a module.
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) data: &'a dyn Fn() -> TensorData,
}

impl Parameter<'_> {
    /// Returns the stored name, type and shape of the tensor.
    pub(super) fn spec(&self) -> Result<TensorSpec> {
        match dtype::stored_dtype(self.dtype) {
            Some(dtype) => Ok(TensorSpec::new(self.name, dtype, self.shape.as_slice())),
            None => {
                Err(refused(self.name, "it is quantized by Burn; dequantize it before, or use slm's layers"))
            }
        }
    }
}

pub(super) fn refused(name: &str, problem: impl Into<String>) -> Error {
    Error::Module { name: name.to_owned(), problem: problem.into() }
}

/// Checks that every linear of `module` is named, and has a form that can be saved and loaded.
pub(super) fn check_linears<M: Module + NamedLinears>(module: &M) -> Result<()> {
    if let Some(path) = unnamed_linears(module).first() {
        let problem =
            "it is a Linear that NamedLinears does not name; derive NamedLinears for the type that holds it";
        return Err(refused(path, problem));
    }
    let mut seen = BTreeSet::new();
    try_for_each_linear(module, |name, linear| match seen.insert(name.to_owned()) {
        true => check_linear(name, linear),
        false => Err(refused(name, "two layers have this name; give every layer a name of its own")),
    })
}

fn check_linear(name: &str, linear: &Linear) -> Result<()> {
    match &linear.weight {
        Weight::Packed(_) => return Ok(()),
        Weight::FakeQuantized(_) => {
            return Err(refused(name, "it is prepared for training; convert it to packed integers first"));
        }
        Weight::QuantizedTrainable(_) => {
            return Err(refused(name, "it is a quantized layer in training; finish its training first"));
        }
        Weight::Float(_) => {}
    }
    let mut count = Count(0);
    linear.weight.visit(&mut count);
    match count.0 {
        1 => Ok(()),
        _ => Err(refused(
            name,
            "its weight has a reparameterization such as LoRA; call `materialize()` before",
        )),
    }
}

struct Count(usize);

impl ModuleVisitor for Count {
    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        self.0 += 1;
    }
}

/// Returns the stored form of a quantized layer; `None` for a float layer.
pub(super) fn quantized_form(name: &str, linear: &Linear) -> Result<Option<QuantizedForm>> {
    let Some(packed) = linear.packed() else { return Ok(None) };
    let matrix = packed.matrix();
    let static_input = matches!(packed.activation(), slm_quant_core::ActivationQuant::Static(_));
    QuantizedForm::new([matrix.rows(), matrix.cols()], matrix.scheme(), static_input)
        .map(Some)
        .map_err(|error| refused(name, error.to_string()))
}

/// Calls `visit` with every tensor of `module` except the packed weights of its layers.
pub(super) fn for_each_parameter<M: Module + NamedLinears>(
    module: &M,
    visit: &mut dyn FnMut(Parameter<'_>) -> Result<()>,
) -> Result<()> {
    try_for_each_linear(module, |name, linear| {
        if let Weight::Float(weight) = &linear.weight {
            show(&names::weight(name), weight.transform_for_save().val(), visit)?;
        }
        match &linear.bias {
            Some(bias) => show(&names::bias(name), bias.transform_for_save().val(), visit),
            None => Ok(()),
        }
    })?;
    let mut walk = Walk { place: ModulePlace::default(), visit, result: Ok(()) };
    module.visit(&mut walk);
    walk.result
}

fn show<const D: usize, K: Basic>(
    name: &str,
    tensor: Tensor<D, K>,
    visit: &mut dyn FnMut(Parameter<'_>) -> Result<()>,
) -> Result<()> {
    let (shape, dtype) = (tensor.dims().to_vec(), tensor.dtype());
    visit(Parameter { name, shape, dtype, data: &|| tensor.clone().into_data() })
}

/// Visitor of the parameters outside of layers.
struct Walk<'a> {
    place: ModulePlace,
    visit: &'a mut dyn FnMut(Parameter<'_>) -> Result<()>,
    result: Result<()>,
}

impl Walk<'_> {
    fn take<const D: usize, K: Basic>(&mut self, tensor: impl FnOnce() -> Tensor<D, K>) {
        if !self.place.is_in_linear() && self.result.is_ok() {
            self.result = show(&self.place.path(), tensor(), self.visit);
        }
    }
}

macro_rules! visit {
    ($($method:ident $kind:ty),+) => {$(
        fn $method<const D: usize>(&mut self, param: &Param<Tensor<D, $kind>>) {
            self.take(|| param.transform_for_save().val());
        }
    )+};
}

impl ModuleVisitor for Walk<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    visit!(visit_float Float, visit_int Int, visit_bool Bool);
}

/// Mapper that puts the tensors of a file into the parameters of a module outside of layers. Names, shapes and types
/// must have been checked before.
pub(super) struct Fill<'a, 'b> {
    place: ModulePlace,
    tensors: &'a mut LoadedTensors<'b>,
    pub(super) result: Result<()>,
}

impl<'a, 'b> Fill<'a, 'b> {
    pub(super) fn new(tensors: &'a mut LoadedTensors<'b>) -> Self {
        Self { place: ModulePlace::default(), tensors, result: Ok(()) }
    }
}

/// Returns the tensor `name` with the shape, type and device of `param`.
pub(super) fn filled<const D: usize, K: Basic>(
    tensors: &mut LoadedTensors<'_>,
    name: &str,
    param: &Param<Tensor<D, K>>,
) -> Result<Tensor<D, K>>
where
    Tensor<D, K>: burn::module::Parameter,
{
    let saved = param.transform_for_save().val();
    let (shape, dtype, device) = (saved.dims(), saved.dtype(), param.lazy_device());
    let data = match dtype {
        DType::F32 | DType::Flex32 => TensorData::new(tensors.take_f32(name)?, shape),
        dtype => dtype::from_bytes(tensors.take_bytes(name)?, &shape, dtype),
    };
    Ok(Tensor::from_data(data, (&device, dtype)))
}

macro_rules! map {
    ($($method:ident $kind:ty),+) => {$(
        fn $method<const D: usize>(&mut self, param: Param<Tensor<D, $kind>>) -> Param<Tensor<D, $kind>> {
            if self.place.is_in_linear() || self.result.is_err() {
                return param;
            }
            match filled(self.tensors, &self.place.path(), &param) {
                Ok(tensor) => {
                    let id = param.id;
                    param.transform_for_load(tensor, id)
                }
                Err(error) => {
                    self.result = Err(error);
                    param
                }
            }
        }
    )+};
}

impl ModuleMapper for Fill<'_, '_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    map!(map_float Float, map_int Int, map_bool Bool);
}
