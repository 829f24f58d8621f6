//! Saving of modules.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::DType;
use slm_nn::{NamedLinears, try_for_each_linear};
use slm_quant_core::{ActivationGranularity, ActivationQuant, QuantizationType};

use super::load::Source;
use super::parameters::{self, Parameter, for_each_parameter, quantized_form, refused};
use super::{CONFIG, LoadOptions, MODULES, SaveOptions, dtype};
use crate::manifest::{Kind, MANIFEST, Manifest, is_plain_name};
use crate::{
    Error, LayerMetadata, Lineage, METADATA, MetadataBuilder, OutputDir, QuantizationMetadata,
    QuantizationMode, Result, SkippedLayer, StopFlag, TensorFileWriter, WEIGHTS, WeightError, json, layer,
};

/// Saves `module` in the directory `dir`, and returns the path of the directory.
///
/// The file contains all parameters that Burn's records hold, and the codes, scales, zero points and static input
/// parameters of quantized layers. As in Burn's records, a field that is a plain tensor or number, or is marked
/// `#[module(skip)]`, is not a parameter.
///
/// The directory appears complete or not at all: files are written to a directory next to it and read back before it is
/// renamed. An existing directory is rejected unless [`SaveOptions::overwrite`] is set and the directory is empty or
/// contains only a saved module.
///
/// # Errors
/// [`Error::Module`] for a linear that is not named, or is in training; [`Error::OutputExists`],
/// [`Error::OutputNotOurs`], [`Error::OutputLocked`], [`Error::OutputUnwritable`]; [`Error::NotFinite`] for a 32-bit
/// float that is NaN or infinite; [`Error::Write`], [`Error::Metadata`] or [`Error::Field`] for options that do not fit
/// the module; [`Error::Io`].
pub fn save_module<M: Module + NamedLinears>(
    module: &M,
    dir: impl AsRef<Path>,
    options: &SaveOptions<'_>,
) -> Result<PathBuf> {
    parameters::check_linears(module)?;
    // Burn's running statistics include the updates of other threads only after `valid`.
    let module = &module.valid();
    let own_metadata = metadata_of(module)?;
    let metadata = options.metadata.or(own_metadata.as_ref());
    let output = OutputDir::create(dir.as_ref(), options.overwrite, MODULES)?;
    let dir = output.path();
    write_tensors(module, &dir.join(WEIGHTS))?;
    let mut files = vec![WEIGHTS.to_owned()];
    if let Some(metadata) = metadata {
        json::write(&dir.join(METADATA), metadata)?;
        files.push(METADATA.to_owned());
    }
    for (name, bytes) in options.extra_files {
        let path = dir.join(name);
        if !is_plain_name(name) || [MANIFEST, WEIGHTS, METADATA, CONFIG].contains(name) {
            let reason = format!("an extra file needs a name of its own, and not {CONFIG}");
            return Err(Error::Write { path, reason });
        }
        json::write_new(&path, bytes)?;
        files.push((*name).to_owned());
    }
    let manifest = Manifest::of(dir, Kind::Module, &files, &StopFlag::NEVER)?;
    json::write_new(&dir.join(MANIFEST), &manifest.to_bytes(dir)?)?;
    // Reads the module back. The checksums were just computed from the files.
    Source::open(dir, &LoadOptions { verify: false })?.check(module)?;
    output.commit()
}

fn write_tensors<M: Module + NamedLinears>(module: &M, path: &Path) -> Result<()> {
    let mut specs = Vec::new();
    try_for_each_linear(module, |name, linear| {
        specs.extend(quantized_form(name, linear)?.map(|form| form.specs(name)).into_iter().flatten());
        Ok::<_, Error>(())
    })?;
    for_each_parameter(module, &mut |parameter| {
        specs.push(parameter.spec()?);
        Ok(())
    })?;
    let mut file = TensorFileWriter::create(path, &specs)?;
    for_each_parameter(module, &mut |parameter| write_parameter(&mut file, &parameter))?;
    try_for_each_linear(module, |name, linear| match linear.packed() {
        Some(packed) => {
            let matrix = packed.matrix().unpack();
            layer::write(&mut file, name, &matrix, packed.activation().static_params())
        }
        None => Ok(()),
    })?;
    file.finish()
}

fn write_parameter(file: &mut TensorFileWriter, parameter: &Parameter<'_>) -> Result<()> {
    let (name, data) = (parameter.name, (parameter.data)());
    match (parameter.dtype, parameter.spec()?.dtype) {
        (DType::F32 | DType::Flex32, _) => {
            let values = data.try_into_vec::<f32>();
            let values =
                values.map_err(|error| refused(name, format!("its values cannot be read: {error:?}")))?;
            file.write_f32(name, &values)
        }
        (_, stored) => file.write_bytes(name, stored, &dtype::to_bytes(&data)),
    }
}

/// Derives metadata from the layers themselves. Returns `None` if no layer is quantized.
fn metadata_of<M: NamedLinears>(module: &M) -> Result<Option<QuantizationMetadata>> {
    let mut layers = Vec::new();
    let mut skipped = Vec::new();
    let mut inputs: Vec<(String, ActivationQuant)> = Vec::new();
    try_for_each_linear(module, |name, linear| {
        let Some(packed) = linear.packed() else {
            let reason = "left float".to_owned();
            skipped.push(SkippedLayer { name: name.to_owned(), shape: linear.weight.dims(), reason });
            return Ok(());
        };
        let input = packed.activation();
        let unknown = WeightError { sqnr_db: f64::NAN, max_abs_error: f64::NAN, clipped_share: f64::NAN };
        inputs.push((name.to_owned(), input));
        // Describes the layer as in a static model, which records dynamic inputs by layer. The loop below removes that
        // if the model turns out not to be static.
        layers.push(LayerMetadata::new(
            name,
            &packed.matrix().unpack(),
            QuantizationType::Static,
            input,
            unknown,
        ));
        Ok(())
    })?;
    let (Some(first), Some(scheme)) = (inputs.first(), layers.first().map(|layer| layer.scheme)) else {
        return Ok(None);
    };
    let most = inputs.iter().find(|(_, input)| input.static_params().is_some()).unwrap_or(first);
    let (quantization_type, activation_granularity) = kind(most.1);
    for (layer, (name, input)) in layers.iter_mut().zip(&inputs) {
        let is_dynamic = matches!(input, ActivationQuant::Dynamic(_));
        if kind(*input) != kind(most.1) && !(quantization_type == QuantizationType::Static && is_dynamic) {
            let problem = format!(
                "its input is quantized otherwise than that of {}; next to static inputs a saved module may have \
                 dynamic ones, and otherwise has one kind for all of its quantized layers",
                most.0
            );
            return Err(refused(name, problem));
        }
        if quantization_type != QuantizationType::Static {
            layer.activation_granularity = None;
        }
    }
    let mut builder = MetadataBuilder::new(scheme, quantization_type).skipped(skipped);
    if let Some(granularity) = activation_granularity {
        builder = builder.activation_granularity(granularity);
    }
    Ok(Some(builder.build(QuantizationMode::Unrecorded, layers, Lineage::default())))
}

fn kind(input: ActivationQuant) -> (QuantizationType, Option<ActivationGranularity>) {
    match input {
        ActivationQuant::Static(_) => (QuantizationType::Static, None),
        ActivationQuant::Dynamic(granularity) => (QuantizationType::Dynamic, Some(granularity)),
        ActivationQuant::Float => (QuantizationType::WeightOnly, None),
    }
}
