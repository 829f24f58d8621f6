//! Reading a module.

use std::fs::File;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use slm_nn::{Linear, NamedLinears, Weight, try_for_each_linear, try_for_each_linear_mut};

use super::parameters::{self, Fill, Parameter, filled, for_each_parameter, refused};
use super::{CONFIG, LoadOptions, LoadReport};
use crate::layer::{QuantizedForm, check_specs, names};
use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::tensors::PositionedFile;
use crate::{
    Error, LoadedTensors, METADATA, QuantizationMetadata, Result, TensorFile, TensorSpec, WEIGHTS, json,
    read_quantized,
};

/// Loads into `module` what [`save_module`](super::save_module) wrote to `dir`.
///
/// The module must have the same parameters, by name, shape and type. Its linears may be float or packed: afterwards
/// they are what they were when they were saved, and compute the same to the last bit. Devices, ids and gradient
/// settings stay those of the module; a layer that was packed and becomes float goes to the device of the module's
/// other parameters.
///
/// # Errors
/// The module is unchanged after an error. [`Error::WrongKind`] for a directory of another kind; [`Error::Checksum`],
/// [`Error::Truncated`], [`Error::Header`] or [`Error::Json`] for damaged files, [`Error::Damaged`] where the layers are
/// known that are lost; [`Error::TensorSet`], [`Error::Shape`] or [`Error::TensorType`] for those of another module;
/// [`Error::Module`] for a module with a linear that is not named or is in training; [`Error::Layer`] and
/// [`Error::Metadata`] for invalid quantized weights; [`Error::Missing`], [`Error::Io`].
pub fn load_module<M: Module + NamedLinears>(
    module: &mut M,
    dir: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<LoadReport> {
    parameters::check_linears(module)?;
    let source = Source::open(dir.as_ref(), options)?;
    source.check_tensors(module)?;
    // All that can be wrong with the files is found here, before anything is changed: some of Burn's modules share
    // their state with their clones.
    let mut tensors = LoadedTensors::read(&source.weights, source.metadata.as_ref(), &source.metadata_path)?;
    let device = module.devices().into_iter().next().unwrap_or_default();
    // Takes in what running statistics have pending, which would otherwise be added to the loaded ones.
    drop(module.valid());
    let mut loaded = module.clone();
    try_for_each_linear_mut(&mut loaded, |name, linear| fill_linear(&mut tensors, name, linear, &device))?;
    let mut fill = Fill::new(&mut tensors);
    let loaded = Module::map(loaded, &mut fill);
    fill.result?;
    *module = loaded;
    let metadata = source.metadata;
    let quantized = metadata.iter().flat_map(|metadata| &metadata.layers).map(|layer| layer.name.clone());
    Ok(LoadReport { quantized: quantized.collect(), metadata })
}

fn fill_linear(
    tensors: &mut LoadedTensors<'_>,
    name: &str,
    linear: &mut Linear,
    device: &Device,
) -> Result<()> {
    if let Some(bias) = linear.bias.take() {
        let tensor = filled(tensors, &names::bias(name), &bias)?;
        let id = bias.id;
        linear.bias = Some(bias.transform_for_load(tensor, id));
    }
    if let Some(weight) = tensors.take_weight(name) {
        linear.weight = weight;
        return Ok(());
    }
    let name = names::weight(name);
    let weight = match &linear.weight {
        Weight::Float(weight) => {
            let tensor = filled(tensors, &name, weight)?;
            weight.clone().transform_for_load(tensor, weight.id)
        }
        Weight::Packed(_) | Weight::FakeQuantized(_) | Weight::QuantizedTrainable(_) => {
            let data = burn::tensor::TensorData::new(tensors.take_f32(&name)?, linear.weight.dims());
            Param::from_tensor(Tensor::from_data(data, device))
        }
    };
    linear.weight = Weight::Float(weight);
    Ok(())
}

/// A saved module that is open.
pub(super) struct Source {
    weights: TensorFile,
    metadata: Option<QuantizationMetadata>,
    metadata_path: PathBuf,
}

impl Source {
    /// Opens the module in `dir`, and compares its files with their checksums where that is asked for.
    pub(super) fn open(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let remedy = || "name a directory that `slm::save` wrote".to_owned();
        if !dir.is_dir() {
            return Err(Error::Missing { path: dir.to_owned(), remedy: remedy() });
        }
        let wrong_kind = || Error::WrongKind {
            path: dir.to_owned(),
            found: "a checkpoint of slm's own model".to_owned(),
            expected: "a module",
            remedy: "open it with `slm_checkpoint::Checkpoint` or the program slm",
        };
        if dir.join(CONFIG).exists() {
            return Err(wrong_kind());
        }
        let manifest_path = dir.join(MANIFEST);
        let Some(bytes) = json::read_optional(&manifest_path, json::SMALL)? else {
            return Err(Error::Missing { path: manifest_path, remedy: remedy() });
        };
        let manifest = Manifest::parse(dir, &bytes)?;
        if manifest.kind != Kind::Module {
            return Err(wrong_kind());
        }
        let (weights_path, metadata_path) = (dir.join(WEIGHTS), dir.join(METADATA));
        let metadata_bytes = match manifest.files.contains_key(METADATA) {
            true => Some(json::read(&metadata_path, json::LARGE, "restore it from a good copy")?),
            false => None,
        };
        let open = |path: &Path| match File::open(path) {
            Ok(file) => Ok(PositionedFile::new(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let remedy = format!("{MANIFEST} calls for it: restore it from a good copy");
                Err(Error::Missing { path: path.to_owned(), remedy })
            }
            Err(error) => Err(Error::io(path, "open")(error)),
        };
        let weights = open(&weights_path)?;
        if options.verify {
            let verified = manifest.verify_file(dir, WEIGHTS, &weights);
            verified.map_err(|error| lost_tensors(&weights_path, &weights).unwrap_or(error))?;
            if let Some(bytes) = &metadata_bytes {
                manifest.verify_bytes(dir, METADATA, bytes)?;
            }
            for name in manifest.files.keys().filter(|name| ![WEIGHTS, METADATA].contains(&name.as_str())) {
                manifest.verify_file(dir, name, &open(&dir.join(name))?)?;
            }
        }
        let metadata = match metadata_bytes {
            Some(bytes) => Some(QuantizationMetadata::parse_migrating(&metadata_path, &bytes, MANIFEST)?),
            None => None,
        };
        let weights = TensorFile::safetensors(&weights_path, weights)?;
        Ok(Self { weights, metadata, metadata_path })
    }

    /// Makes sure that the file has the tensors of `module` and no others, with layers quantized as the metadata says.
    fn check_tensors<M: Module + NamedLinears>(&self, module: &M) -> Result<()> {
        let mut specs = Vec::new();
        let mut unknown: Vec<&str> = Vec::new();
        if let Some(metadata) = &self.metadata {
            unknown.extend(metadata.layers.iter().map(|layer| layer.name.as_str()));
        }
        let mut float_layers = Vec::new();
        try_for_each_linear(module, |name, linear| {
            unknown.retain(|unknown| *unknown != name);
            match self.form_of(name, linear)? {
                Some(form) => specs.extend(form.specs(name)),
                None => float_layers.push((names::weight(name), linear.weight.dims())),
            }
            Ok::<_, Error>(())
        })?;
        if let Some(name) = unknown.first() {
            let expected = "a layer of the module";
            return Err(Error::field(&self.metadata_path, format!("layers[{name:?}]"), expected, "another"));
        }
        // A layer that is float in the module and quantized in the file has other tensors than the module shows.
        let quantized: Vec<String> = self
            .metadata
            .iter()
            .flat_map(|metadata| &metadata.layers)
            .map(|layer| names::weight(&layer.name))
            .collect();
        for_each_parameter(module, &mut |parameter: Parameter<'_>| {
            if !quantized.iter().any(|name| name == parameter.name) {
                float_layers.retain(|(name, _)| name != parameter.name);
                specs.push(parameter.spec()?);
            }
            Ok(())
        })?;
        // What is left is packed in the module and float in the file.
        let packed = float_layers.into_iter();
        specs.extend(packed.map(|(name, shape)| TensorSpec::new(name, safetensors::Dtype::F32, shape)));
        check_specs(
            &self.weights,
            &specs,
            "the file is not of this module: check the directory and the module's sizes",
        )
    }

    /// Stored form of a layer, by the metadata; none for a float one.
    fn form_of(&self, name: &str, linear: &Linear) -> Result<Option<QuantizedForm>> {
        let Some(record) = self.metadata.as_ref().and_then(|metadata| metadata.layer(name)) else {
            return Ok(None);
        };
        let shape = linear.weight.dims();
        if record.shape != shape {
            let field = format!("layers[{name:?}].shape");
            let found = format!("{:?}", record.shape);
            return Err(Error::field(
                &self.metadata_path,
                field,
                format!("{shape:?}, as in the module"),
                found,
            ));
        }
        QuantizedForm::new(shape, record.scheme, record.activation.is_some()).map(Some).map_err(|source| {
            Error::Layer { path: self.metadata_path.clone(), layer: name.to_owned(), source }
        })
    }

    /// Reads the quantized layers once more, as [`load_module`] would.
    pub(super) fn check<M: Module + NamedLinears>(&self, module: &M) -> Result<()> {
        self.check_tensors(module)?;
        try_for_each_linear(module, |name, linear| match linear.packed() {
            Some(packed) => self.check_layer(name, packed),
            None => Ok(()),
        })
    }

    fn check_layer(&self, name: &str, packed: &slm_nn::PackedWeight) -> Result<()> {
        let read = match &self.metadata {
            Some(metadata) => read_quantized(&self.weights, metadata, &self.metadata_path, name)?,
            None => None,
        };
        match read {
            Some((matrix, activation))
                if activation == packed.activation() && matrix == packed.matrix().unpack() =>
            {
                Ok(())
            }
            _ => Err(refused(name, "the metadata of its quantization is not that of the layer")),
        }
    }
}

/// The error that names the tensors beyond the end of a file that was cut; none for a file that is as long as its
/// header says, or whose header cannot be read.
fn lost_tensors(path: &Path, file: &PositionedFile) -> Option<Error> {
    let (lost, expected, found) = TensorFile::beyond_the_end(file)?;
    let tensors = lost.join(", ");
    Some(Error::Damaged { path: path.to_owned(), tensors, expected, found })
}
